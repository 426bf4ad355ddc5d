"""What makes a finished release visible: content first, the manifest that names it last."""
