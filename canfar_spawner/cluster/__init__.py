"""Sessions as pods of a Kubernetes cluster. Nothing outside this folder knows Kubernetes."""
