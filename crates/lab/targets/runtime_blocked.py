"""An asyncio server whose handler calls what blocks: the whole loop stands for 400 ms with each request."""

import asyncio
import time

handled = 0


def load_profile():
    time.sleep(0.4)


async def serve(reader, writer):
    global handled
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            load_profile()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n")
            await writer.drain()
            handled += 1
            if handled == 3:
                print("ready", flush=True)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
