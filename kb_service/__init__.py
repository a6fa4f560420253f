"""Knowledge base: LLM rewrites of the source, and CSI predicted from past reports."""
