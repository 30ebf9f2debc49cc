"""Jobs and pods as Kubernetes takes them, made of values. Pure, as the decisions are."""
