"""Other model servers, each a program in its own virtual environment, told by its environment
variables what to serve; `NAME.txt` pins what is installed for it. See `bench/peer_targets.py`."""
