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

{{/* Labels of an object that another tool selects by labels of the user's; takes a list: the root, the labels. */}}
{{- define "annotationrun.labelsWith" -}}
{{- merge (include "annotationrun.labels" (index . 0) | fromYaml) (index . 1) | toYaml -}}
{{- end }}

{{/* EnvVars of all containers of the runs, as JSON: the proxy, then those of the user. Nothing: there are none. */}}
{{- define "annotationrun.podEnv" -}}
{{- $found := list -}}
{{- with .Values.proxy -}}
{{- if or .httpsProxy .httpProxy .noProxy -}}
{{- with .httpsProxy }}{{ $found = append $found (dict "name" "HTTPS_PROXY" "value" .) }}{{ end -}}
{{- with .httpProxy }}{{ $found = append $found (dict "name" "HTTP_PROXY" "value" .) }}{{ end -}}
{{- /* The worker asks its sidecar at 127.0.0.1, and servers of the cluster by the names of their Services. */ -}}
{{- $direct := concat (list "localhost" "127.0.0.1" "::1" ".svc" ".cluster.local") .noProxy -}}
{{- $found = append $found (dict "name" "NO_PROXY" "value" (join "," $direct)) -}}
{{- end -}}
{{- end -}}
{{- $found = concat $found .Values.jobs.env -}}
{{- $names := list -}}
{{- range $found -}}
{{- if has .name $names }}{{ fail (printf "jobs.env: %s is there twice, or set by proxy too" .name) }}{{ end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- with $found }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* A text as the value of an environment variable: the kubelet shall not put in other variables for $(NAME). */}}
{{- define "annotationrun.verbatim" -}}
{{- . | replace "$" "$$" | quote -}}
{{- end }}

{{/* The pods of the runs, whose servers and workers are watched: a selector. */}}
{{- define "annotationrun.runSelector" -}}
matchExpressions:
  - {key: annotationrun.dev/run-uid, operator: Exists}
{{- end }}

{{/*
NetworkPolicyPeers that may scrape, as YAML. Takes a list: the root, the values of the monitor. Where the user names
none they are the namespace of the release and that of the monitor.
*/}}
{{- define "annotationrun.scrapers" -}}
{{- $root := index . 0 -}}
{{- $monitor := index . 1 -}}
{{- $peers := default list $root.Values.networkPolicy.metricsFrom -}}
{{- if not $peers -}}
{{- $namespaces := list $root.Release.Namespace -}}
{{- if and $monitor.enabled $monitor.namespace -}}
{{- $namespaces = append $namespaces $monitor.namespace -}}
{{- end -}}
{{- range uniq $namespaces -}}
{{- $labels := dict "kubernetes.io/metadata.name" . -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchLabels" $labels)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $peers -}}
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
