"""The report: what a run leaves for people and programs to read. Plain values come in, files and text leave."""
