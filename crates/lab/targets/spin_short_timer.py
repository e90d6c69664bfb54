"""Waits for a job by looking for it every millisecond."""

import asyncio

jobs = []


async def main():
    print("ready", flush=True)
    while not jobs:
        await asyncio.sleep(0.001)


asyncio.run(main())
