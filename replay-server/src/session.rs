//! One client's session, from its first byte until it leaves.
//!
//! gdbstub sees a perfect client that never asks for acknowledgements; this module stands between it and the real
//! one. Should gdbstub fail over a packet nevertheless, it is started afresh and the client hears of an error.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStubBuilder, GdbStubBuilderError, GdbStubError};

use crate::admission::{self, Admission, Refusal, admit};
use crate::architecture::RegisterNumber;
use crate::breakpoints::BreakpointTable;
use crate::connection::ClientConnection;
use crate::executable;
use crate::framing::{self, Decoder, Event, PACKET_SIZE};
use crate::memory::{self, Found};
use crate::monitor;
use crate::reply::ReplyBuffer;
use crate::resume;
use crate::target::Guest;
use crate::watchpoints::WatchpointTable;

type Stub = GdbStubStateMachine<'static, Guest, ReplyBuffer>;
type StubFailure = GdbStubError<Infallible, Infallible>;

/// What this crate adds to gdbstub's list of features.
const OUR_FEATURES: &[u8] = b";ConditionalBreakpoints+;binary-upload+";
/// gdb waits six seconds for an answer, unless it is told otherwise, and takes a later one for that to another packet.
const LONGEST_SEARCH: Duration = Duration::from_secs(4);
/// The most bytes that one packet prints on a console: clients that don't heed the packet size have small buffers.
const CONSOLE_BYTES: usize = 400;

/// What ends a session other than the client's leaving.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The socket failed.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// gdbstub could not be started.
    #[error("gdbstub: {0}")]
    Build(#[from] GdbStubBuilderError),
    /// gdbstub failed over a packet that it must accept.
    #[error("gdbstub: {0}")]
    Stub(#[from] StubFailure),
}

/// Whether the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Leave,
}

/// Serves a client until it leaves. Its breakpoints go with it, the position stays.
pub fn serve(stream: TcpStream, guest: &mut Guest) -> Result<(), SessionError> {
    guest.breakpoints = BreakpointTable::default();
    guest.watchpoints = WatchpointTable::default();
    guest.request = None;
    let client = ClientConnection::new(stream)?;
    let mut session = Session {
        client,
        guest,
        stub: None,
        outgoing: Vec::new(),
        last_reply: Vec::new(),
        acknowledging: true,
        multiprocess: false,
        accepts_messages: false,
    };
    while let Some(event) = session.client.next_event()? {
        let next = session.handle(event)?;
        session.flush()?;
        if next == Next::Leave {
            break;
        }
    }
    Ok(())
}

struct Session<'a> {
    client: ClientConnection,
    guest: &'a mut Guest,
    /// Absent until it is first needed, and after it failed.
    stub: Option<Stub>,
    /// Framed bytes to be sent, so that each answer is one write.
    outgoing: Vec<u8>,
    /// The last packet that was sent, framed, for a client that did not get it whole.
    last_reply: Vec<u8>,
    acknowledging: bool,
    multiprocess: bool,
    accepts_messages: bool,
}

impl Session<'_> {
    fn handle(&mut self, event: Event) -> Result<Next, SessionError> {
        match event {
            Event::Packet(body) => {
                log::trace!("<- {}", String::from_utf8_lossy(&body));
                if self.acknowledging {
                    self.outgoing.push(b'+');
                }
                return self.handle_packet(&body);
            }
            // It came too late: the guest has stopped already, and the client has been told.
            Event::Interrupt => log::debug!("Ctrl-C while nothing runs"),
            Event::Acknowledged => {}
            Event::RetransmissionWanted if self.acknowledging => {
                self.outgoing.extend_from_slice(&self.last_reply);
            }
            Event::RetransmissionWanted => log::debug!("a `-` from a client that asked for none"),
            Event::Damaged if self.acknowledging => self.outgoing.push(b'-'),
            Event::Damaged => self.refuse(admission::DAMAGED),
            Event::Oversized => {
                if self.acknowledging {
                    self.outgoing.push(b'+');
                }
                self.refuse(admission::OVERSIZED);
            }
        }
        Ok(Next::Continue)
    }

    fn handle_packet(&mut self, body: &[u8]) -> Result<Next, SessionError> {
        if let Some(answer) = self.guest.executable.as_ref().and_then(|executable| executable.answer(body)) {
            self.reply(&answer);
            return Ok(Next::Continue);
        }
        match admit(body) {
            Admission::Forward(packet) => return self.forward(&packet),
            Admission::Answer(answer) => self.reply(answer.as_bytes()),
            Admission::Refuse(refusal) => self.refuse(refusal),
            Admission::Negotiate { multiprocess, accepts_messages } => {
                (self.multiprocess, self.accepts_messages) = (multiprocess, accepts_messages);
                return self.forward(negotiation(multiprocess));
            }
            Admission::StopAcknowledging => {
                self.reply(b"OK");
                self.acknowledging = false;
            }
            Admission::ReadRegister(number) => {
                let value = self.guest.register_values().into_iter().find(|value| value.number == number);
                match value {
                    Some(value) => self.reply(value.text().as_bytes()),
                    None => self.refuse(admission::NO_SUCH_REGISTER),
                }
            }
            Admission::ConditionalBreakpoint { kind, address, condition } => {
                if self.guest.breakpoints.insert(kind, address, condition) {
                    self.reply(b"OK");
                } else {
                    self.refuse(admission::TOO_MANY_BREAKPOINTS);
                }
            }
            Admission::ReadMemory { address, length } => {
                let reply = memory::read(self.guest, address, length);
                self.reply(&reply);
            }
            Admission::SearchMemory { start, length, pattern } => {
                // The client may wait for the acknowledgement before it thinks of sending Ctrl-C.
                self.flush()?;
                let (client, begun) = (&mut self.client, Instant::now());
                let mut cancelled = || client.wants_stop() || begun.elapsed() > LONGEST_SEARCH;
                match memory::search(self.guest, start, length, &pattern, &mut cancelled) {
                    Found::At(address) => self.reply(format!("1,{address:x}").as_bytes()),
                    Found::Nowhere => self.reply(b"0"),
                    Found::Cancelled if begun.elapsed() > LONGEST_SEARCH => {
                        self.refuse(admission::SEARCH_TOO_LONG);
                    }
                    Found::Cancelled => self.refuse(admission::INTERRUPTED),
                }
            }
            Admission::Monitor(command) => {
                self.flush()?;
                let client = &mut self.client;
                let command = String::from_utf8_lossy(&command);
                let text = monitor::execute(self.guest, &command, &mut || client.wants_stop());
                self.print(&text);
                self.reply(b"OK");
            }
            Admission::Kill { answered } => {
                if answered {
                    self.reply(b"OK");
                }
                return Ok(Next::Leave);
            }
        }
        Ok(Next::Continue)
    }

    /// Lets gdbstub handle a packet, and runs the guest if that is what the packet wants.
    fn forward(&mut self, packet: &[u8]) -> Result<Next, SessionError> {
        let stub = match self.stub.take() {
            Some(stub) => stub,
            None => new_stub(self.guest, self.multiprocess)?,
        };
        match feed(stub, self.guest, packet).and_then(|stub| self.settle(stub, packet)) {
            Ok((stub, next)) => {
                self.stub = Some(stub);
                Ok(next)
            }
            Err(error) => {
                log::warn!("gdbstub rejected `{}`: {error}", String::from_utf8_lossy(packet));
                self.guest.request = None;
                self.refuse(admission::REJECTED);
                Ok(Next::Continue)
            }
        }
    }

    /// Brings gdbstub back to where it awaits a packet, and queues its replies.
    fn settle(&mut self, stub: Stub, packet: &[u8]) -> Result<(Stub, Next), StubFailure> {
        let mut stub = match stub {
            GdbStubStateMachine::Running(running) => {
                let Some(request) = self.guest.request.take() else {
                    // Every resume packet leaves a request.
                    return Ok((GdbStubStateMachine::Running(running), Next::Leave));
                };
                // The client may wait for the acknowledgement before it thinks of sending Ctrl-C.
                if self.flush().is_err() {
                    return Ok((GdbStubStateMachine::Running(running), Next::Leave));
                }
                let client = &mut self.client;
                let outcome = resume::run(self.guest, request, &mut || client.wants_stop());
                if let Some(message) = outcome.message {
                    self.console(&message);
                }
                let registers = self.guest.register_values();
                let mut known = registers.iter().filter_map(|register| {
                    Some((RegisterNumber(register.number), register.bytes.as_deref()?))
                });
                running.report_stop_with_regs(self.guest, outcome.reason, &mut known)?
            }
            GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                interrupt.interrupt_handled(self.guest, None::<gdbstub::stub::MultiThreadStopReason<u64>>)?
            }
            other => other,
        };
        let (replies, next) = match &mut stub {
            GdbStubStateMachine::Idle(idle) => (std::mem::take(&mut idle.borrow_conn().0), Next::Continue),
            GdbStubStateMachine::Disconnected(gone) => {
                log::debug!("{}", farewell(gone.get_reason()));
                (std::mem::take(&mut gone.borrow_conn().0), Next::Leave)
            }
            // Neither can come of the packets that are passed on.
            GdbStubStateMachine::Running(_) | GdbStubStateMachine::CtrlCInterrupt(_) => {
                (Vec::new(), Next::Leave)
            }
        };
        let mut decoder = Decoder::default();
        for event in replies.iter().filter_map(|byte| decoder.push(*byte)) {
            if let Event::Packet(mut body) = event {
                if packet.starts_with(b"qSupported") {
                    body.extend_from_slice(OUR_FEATURES);
                    if self.guest.executable.is_some() {
                        body.extend_from_slice(executable::FEATURE);
                    }
                }
                if packet == b"?" {
                    // As every other stop reply, it saves the client a `g`.
                    for register in self.guest.register_values() {
                        if register.bytes.is_some() {
                            body.extend_from_slice(
                                format!("{:02x}:{};", register.number, register.text()).as_bytes(),
                            );
                        }
                    }
                }
                self.reply(&body);
            }
        }
        Ok((stub, next))
    }

    /// Prints a line on the client's console. Clients expect this only while the guest runs.
    fn console(&mut self, line: &str) {
        self.print(&format!("{line}\n"));
    }

    /// Prints text on the client's console, in packets of a modest size.
    fn print(&mut self, text: &str) {
        for part in text.as_bytes().chunks(CONSOLE_BYTES) {
            self.reply(format!("O{}", framing::hexadecimal(part)).as_bytes());
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        log::debug!("refused: {}", refusal.reason);
        self.reply(&refusal.packet(self.accepts_messages));
    }

    fn reply(&mut self, body: &[u8]) {
        log::trace!("-> {}", String::from_utf8_lossy(body));
        self.last_reply.clear();
        framing::encode(body, &mut self.last_reply);
        self.outgoing.extend_from_slice(&self.last_reply);
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            self.client.send(&self.outgoing)?;
            self.outgoing.clear();
        }
        Ok(())
    }
}

/// A gdbstub that awaits packets, with the session's settings.
fn new_stub(guest: &mut Guest, multiprocess: bool) -> Result<Stub, SessionError> {
    let stub = GdbStubBuilder::new(ReplyBuffer::default()).packet_buffer_size(PACKET_SIZE).build()?;
    let mut stub = stub.run_state_machine(guest)?;
    for packet in [b"QStartNoAckMode", negotiation(multiprocess)] {
        stub = feed(stub, guest, packet)?;
    }
    if let GdbStubStateMachine::Idle(idle) = &mut stub {
        idle.borrow_conn().0.clear();
    }
    Ok(stub)
}

/// The one feature of a client that gdbstub wants to hear of.
fn negotiation(multiprocess: bool) -> &'static [u8] {
    if multiprocess { b"qSupported:multiprocess+" } else { b"qSupported:multiprocess-" }
}

fn feed(mut stub: Stub, guest: &mut Guest, packet: &[u8]) -> Result<Stub, StubFailure> {
    let mut framed = Vec::new();
    framing::encode(packet, &mut framed);
    for byte in framed {
        stub = match stub {
            GdbStubStateMachine::Idle(idle) => idle.incoming_data(guest, byte)?,
            // Only a packet's last byte leaves the idle state.
            other => other,
        };
    }
    Ok(stub)
}

fn farewell(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::Disconnect => "the client detached",
        DisconnectReason::Kill => "the client killed the guest",
        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => "the guest ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::SyntheticRecording;
    use proptest::prelude::*;

    /// Packets that are likely to be understood, and near misses.
    fn packet() -> impl Strategy<Value = String> {
        let number = "(-1|[0-9a-f]{0,2}|ffffffff8000000[0-9a-f]|[0-9a-f]{8,17})";
        let thread = "(p?(-1|0|1|2)([.](-1|0|1))?)";
        let forms = [
            "[?gkDcsCSbp]#".to_owned(),
            "[cspCSD];?#".to_owned(),
            "b[cs]".to_owned(),
            "m#,#".to_owned(),
            "[zZ][0-4],#,#(;.{0,4})?".to_owned(),
            "H[gc]@".to_owned(),
            "T@".to_owned(),
            "vCont[?]?".to_owned(),
            "vCont(;([cst]|[CS]#|r#,#)(:@)?){1,3}".to_owned(),
            "vKill;#".to_owned(),
            "qSupported:?(;?[a-z+=-]{0,4}){0,3}".to_owned(),
            "q(Attached|Attached:#|C|fThreadInfo|sThreadInfo)".to_owned(),
            "qXfer:features:read:target[.]xml:#,#".to_owned(),
            "qRcmd,([0-9a-f]{2}){0,6}".to_owned(),
        ];
        proptest::sample::select(forms.to_vec()).prop_flat_map(move |form| {
            let pattern = form.replace('#', number).replace('@', thread);
            proptest::string::string_regex(&pattern).expect("a regular expression")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// The session survives a packet that gdbstub rejects, but admission should not let one through.
        #[test]
        fn gdbstub_accepts_what_is_admitted(packet in packet(), multiprocess in any::<bool>()) {
            let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
            if let Admission::Forward(admitted) = admit(packet.as_bytes()) {
                let stub = new_stub(&mut guest, multiprocess).expect("gdbstub starts");
                let outcome = feed(stub, &mut guest, &admitted);
                prop_assert!(outcome.is_ok(), "{packet}: {:?}", outcome.err().map(|error| error.to_string()));
            }
        }
    }
}
