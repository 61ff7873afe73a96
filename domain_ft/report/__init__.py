"""Reports: the files that a run leaves for people and programs. Takes plain values, writes files and text."""
