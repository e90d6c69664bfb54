"""A server that keeps the connection of each client in its list, after the client has gone."""

import asyncio

sessions = []
gone = 0


async def serve(reader, writer):
    global gone
    sessions.append((reader, writer))
    while data := await reader.read(512):
        writer.write(data)
    # writer.close() is missing.
    gone += 1
    if gone == 50:
        print("ready", flush=True)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
