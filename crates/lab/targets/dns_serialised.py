"""Forty callers look up names by two threads; each lookup takes half a second."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

done = 0


async def call(loop, number):
    global done
    while True:
        await loop.getaddrinfo(f"shard-{number}.lab.test", 80)
        done += 1
        if done == 4:
            print("ready", flush=True)


async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=2, thread_name_prefix="resolver"))
    await asyncio.gather(*(call(loop, number) for number in range(40)))


asyncio.run(main())
