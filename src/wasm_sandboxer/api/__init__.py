"""What goes over the wire: messages generated from proto/, and two tables about them written by hand.

`*_pb2.py` and `*_pb2.pyi` come from tools/generate_api.py and are never edited. `services` says which
methods take which messages, `typeurl` how containerd names the content of an Any. Nothing here imports
anything else of the project.
"""
