"""What ttrpc and gRPC have in common here: unary calls over a Unix socket, on the asyncio loop.

Knows no wire, no service of ours and no domain error: what to serve, how errors translate and what to record
come from whoever builds the server, how calls and answers look on the wire from `rpc.ttrpc` and `rpc.grpc`.
"""
