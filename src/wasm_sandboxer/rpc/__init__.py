"""containerd's services over gRPC and ttrpc: messages to the domain and back."""
