"""A bot that reminds people: it reads lines from standard input, where another one would read from a chat service."""

import asyncio
import sys
from types import SimpleNamespace

from pikkupy import Engine, Pikku, RunStateError, Services, Workflow

pikku = Pikku()


class Chat:
    """Where the bot talks. Another one would send messages here."""

    async def say(self, to: str, text: str) -> None:
        """One message."""
        print(f"-> {to}: {text}", flush=True)


@pikku.function
async def say(services: Services, data: tuple[str, str]) -> None:
    """Its retries and its place in the conversation are the workflow's."""
    to, text = data
    await services.chat.say(to, text)


@pikku.workflow
async def conversation(workflow: Workflow, name: str) -> str:
    """Ask what and when, and remind."""
    await workflow.do("Ask what", say, (name, "What shall I remind you of?"), retries=3)
    what = await workflow.wait_for_signal("message", str)
    while True:
        await workflow.do("Ask when", say, (name, "In how many seconds?"), retries=3)
        when = await workflow.wait_for_signal("message", str)
        if when.isascii() and when.isdigit() and len(when) <= 6:  # up to eleven days
            break
    await workflow.do("Promise", say, (name, "I will."), retries=3)
    await workflow.sleep("Until then", f"{when}s")
    await workflow.do("Remind", say, (name, f"Remember: {what}"), retries=3)
    return what


async def hear(engine: Engine, line: str) -> None:
    """A message goes to the conversation that its writer is in, or begins one."""
    name, _, text = line.partition(":")
    going_on = await engine.list_runs(workflow=conversation, tags={"with": name}, status="running", limit=1)
    if not going_on.runs:
        await engine.start(conversation, name, tags={"with": name})
        return
    try:
        await engine.signal(going_on.runs[0].id, "message", text.strip())
    except RunStateError:  # it has ended just now
        await engine.start(conversation, name, tags={"with": name})


async def main() -> None:
    """Until the end of the input."""
    async with pikku.open("bot.db", services=SimpleNamespace(chat=Chat())) as engine:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip():
                await hear(engine, line.strip())


if __name__ == "__main__":
    asyncio.run(main())
