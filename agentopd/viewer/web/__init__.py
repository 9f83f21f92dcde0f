"""The program of the viewer's page: what a browser reads, and Python only puts together (``bundle.py``)."""
