"""Run workers as processes."""
