//! LLM sessions.
