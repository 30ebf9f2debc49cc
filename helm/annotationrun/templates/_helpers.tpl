{{- define "annotationrun.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* The component keeps the operator's pods apart from those of the runs, which bear the same name label. */}}
{{- define "annotationrun.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* No label of the user's stands in for one of ours: the selectors need them. */}}
{{- define "annotationrun.labels" -}}
{{- $labels := include "annotationrun.selectorLabels" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "annotationrun" -}}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge $labels .Values.commonLabels | toYaml -}}
{{- end }}

{{- define "annotationrun.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "annotationrun.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* A container image as text. Takes a dict: image, registry and tag (what holds where the image says none). */}}
{{- define "annotationrun.image" -}}
{{- with default .registry .image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository }}:{{ default .tag .image.tag -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* All that the operator may do: it reads runs and pods, writes the runs' status, owns Jobs, tells Events. */}}
{{- define "annotationrun.operatorRules" -}}
- apiGroups: [annotationrun.dev]
  resources: [annotationruns]
  verbs: [get, list, watch]
- apiGroups: [annotationrun.dev]
  resources: [annotationruns/status]
  verbs: [update]
# For blockOwnerDeletion in the Jobs' ownerReferences, where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [annotationrun.dev]
  resources: [annotationruns/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}
