"""Signing up: create the user, write an e-mail, wait for its link to be clicked, and remind once."""

import os

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from pikkupy import EngineClosed, Pikku, RunNotFound, RunStateError, Services, SignalTimeout, Workflow

pikku = Pikku()


@pikku.function
async def send_email(services: Services, data: dict[str, str]) -> str:
    """Stands for an e-mail service, which is asked to send each message once."""
    services.logger.info("sending", to=data["to"], subject=data["subject"])
    return f"sent {data['subject']!r} to {data['to']}"


@pikku.workflow
async def onboarding(workflow: Workflow, email: str) -> str:
    """Sign up one user."""
    user_id = await workflow.do("Create user", lambda: f"user-{email.partition('@')[0]}")
    await workflow.do("Send link", send_email, {"to": email, "subject": "Confirm"}, retries=5, retry_delay="10s")
    try:
        await workflow.wait_for_signal("confirmed", timeout="3d")
    except SignalTimeout:
        await workflow.do("Remind", send_email, {"to": email, "subject": "Still there?"}, retries=5, retry_delay="10s")
        await workflow.wait_for_signal("confirmed", timeout="4d")
    await workflow.do("Welcome", send_email, {"to": email, "subject": "Welcome"}, retries=5, retry_delay="10s")
    return user_id


engine = pikku.open("onboarding.db", role="auto", wait="30s")
app = FastAPI(lifespan=engine.lifespan)
app.mount("/pikku", engine.asgi(console=True))


@app.exception_handler(EngineClosed)
async def later(_: Request, closed: EngineClosed) -> JSONResponse:
    """No worker is the engine just now: another one takes over, and what was asked can be asked again."""
    return JSONResponse({"detail": str(closed)}, 503, {"retry-after": "1"})


@app.post("/signup", status_code=202)
async def signup(email: str) -> dict[str, str]:
    """Who signs up twice gets the same run."""
    handle = await engine.start(onboarding, email, run_id=f"signup:{email}")
    return {"run": handle.id}


@app.post("/confirm/{run_id}")
async def confirm(run_id: str) -> dict[str, str]:
    """The link in the e-mail, which may be clicked more than once."""
    try:
        await engine.signal(run_id, "confirmed")
    except RunNotFound:
        raise HTTPException(404, "nobody has signed up like that") from None
    except RunStateError:  # it has ended
        if (await engine.get_run(run_id)).status != "completed":
            raise HTTPException(410, "it is too late: sign up again") from None
    return {"thanks": run_id}


@app.get("/signup/{run_id}")
async def progress(run_id: str) -> dict[str, object]:
    """How far it is."""
    try:
        run = await engine.get_run(run_id)
    except RunNotFound:
        raise HTTPException(404, "nobody has signed up like that") from None
    return {"status": run.status, "user": run.output, "steps": [step.name for step in await engine.steps(run_id)]}


@app.get("/who")
async def who() -> dict[str, object]:
    """Which worker has answered, and what it is."""
    return {"pid": os.getpid(), "role": engine.role}
