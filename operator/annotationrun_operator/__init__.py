"""The Kubernetes operator: watches AnnotationRun resources and runs their steps as Jobs."""
