"""GPT-J's architecture and a weight noise attack for fpvec-audit."""
