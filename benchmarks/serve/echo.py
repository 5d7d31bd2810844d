"""A bare grpcio server that answers each request with the same bytes: what the load generator and gRPC alone reach.

python echo.py ANSWER_BYTES
"""

import asyncio
import sys

import grpc


async def main(size: int) -> None:
    answer = bytes(size)

    async def handle(request: bytes, context: object) -> bytes:  # noqa: ARG001  gRPC's signature
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(handle)
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"ready: 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
