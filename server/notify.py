"""Telling systemd how the service is: datagrams to `$NOTIFY_SOCKET`, as sd_notify(3) has them."""

import asyncio
import contextlib
import os
import socket
import time

__all__ = ["keep_alive", "notify", "reloading", "watchdog_seconds"]


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`; nothing happens where no service manager asks for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # the abstract namespace
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)  # a manager that is stuck must not hold us up
        out.sendto("\n".join(assignments).encode(), address)


def reloading() -> tuple[str, str]:
    """Return what announces a reload; `READY=1` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_seconds() -> float | None:
    """Return how often the manager wants to hear from us; None if it does not."""
    micros = os.environ.get("WATCHDOG_USEC", "")
    if not micros.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(micros) / 1e6 or None


async def keep_alive() -> None:
    """Ping the watchdog from the event loop, at half its time: a loop that hangs is restarted."""
    seconds = watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 2)
