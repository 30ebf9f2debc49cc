"""The modules: from frames to rows."""
