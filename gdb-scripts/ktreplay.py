"""Commands for gdb that travel in a recording served by ktreplay.

    (gdb) source gdb-scripts/ktreplay.py
    (gdb) target remote :1234
    (gdb) kt goto 50%

`monitor goto` moves the server behind gdb's back: gdb goes on showing the registers and memory that it has read
before. These commands make it forget them and show the new place.
"""

import gdb


def ask_server(command):
    """Sends a monitor command and returns what the server prints."""
    return gdb.execute("monitor " + command, to_string=True)


def forget_cached_state():
    """Makes gdb read registers, frames and memory anew."""
    gdb.execute("maintenance flush register-cache", to_string=True)
    gdb.execute("maintenance flush dcache", to_string=True)


def show_place():
    """Shows the frame and the next instruction, as far as the recording knows them."""
    for command in ("frame", "x/i $pc"):
        try:
            gdb.execute(command)
        except gdb.error as unknown:
            gdb.write("%s\n" % unknown)


class Travel(gdb.Command):
    """Travel in a recording: kt goto, kt event, kt events, kt when, kt info."""

    def __init__(self):
        super().__init__("kt", gdb.COMMAND_RUNNING, prefix=True)


class Goto(gdb.Command):
    """Go to a position in the recording, and show the frame there.

kt goto N      position N, counted in instructions from the start
kt goto N%     that part of the recording
kt goto +N     N instructions later (-N: earlier)
kt goto start  the first instruction
kt goto end    after the last instruction"""

    def __init__(self):
        super().__init__("kt goto", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        if not argument.strip():
            raise gdb.GdbError("kt goto needs a position, for example: kt goto 50%")
        answer = ask_server("goto " + argument)
        if not answer[:1].isdigit():
            raise gdb.GdbError(answer.strip())
        forget_cached_state()
        gdb.write(answer)
        show_place()


class Event(gdb.Command):
    """Go to the next event in the recording, and show the frame there.

kt event                next interrupt, exception, device's write, or access to a device
kt event KIND           next one of a kind: irq, exception, dma, io, gap
kt event [KIND] back    the one before"""

    def __init__(self):
        super().__init__("kt event", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        answer = ask_server("goto-event " + argument)
        if not answer[:1].isdigit():
            raise gdb.GdbError(answer.strip())
        forget_cached_state()
        gdb.write(answer)
        show_place()


class Events(gdb.Command):
    """List the next events in the recording: kt events [KIND] [N] [back]."""

    def __init__(self):
        super().__init__("kt events", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        gdb.write(ask_server("events " + argument))


class When(gdb.Command):
    """Show the position in the recording, in instructions from its start."""

    def __init__(self):
        super().__init__("kt when", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        gdb.write(ask_server("when"))


class Info(gdb.Command):
    """Show what is recorded."""

    def __init__(self):
        super().__init__("kt info", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        gdb.write(ask_server("info"))


for command in (Travel, Goto, Event, Events, When, Info):
    command()
