//! Runs the recording as a client asks, forward and backward, and says why it stopped.
//!
//! The rules are gdb's, found by trial (`gdb-notes.md`, sections 3 and 6): a breakpoint counts only after moving; the
//! ends of the recording are told as the replay log's ends, except to a forward step, because gdb 13 hangs if it
//! hears of the end while it steps over a breakpoint.

use std::convert::Infallible;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadRangeStepping, SingleThreadRangeSteppingOps, SingleThreadResume, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use ktrace_format::Position;
use ktrace_timeline::{ReplayError, Stop, StopAt};

use crate::breakpoints::BreakpointKind;
use crate::target::{BreakpointHere, Guest};

/// The one thread's id.
pub const THREAD: Tid = Tid::MIN;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeRequest {
    /// Forward to a breakpoint or the end.
    Continue,
    /// One instruction forward.
    Step,
    /// Forward while the program counter is in `start..end`, at least one instruction.
    RangeStep {
        /// First address of the range.
        start: u32,
        /// First address after it.
        end: u32,
    },
    /// Back to a breakpoint or the start.
    ReverseContinue,
    /// One instruction back.
    ReverseStep,
}

/// Why the run stopped, as the client will be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The stop reply's reason.
    pub reason: MultiThreadStopReason<u64>,
    /// A line for the client's console, where the reason does not say it all.
    pub message: Option<String>,
}

impl Outcome {
    fn signal(signal: Signal) -> Self {
        Self { reason: MultiThreadStopReason::SignalWithThread { tid: THREAD, signal }, message: None }
    }

    /// A step is done.
    fn stepped() -> Self {
        Self::signal(Signal::SIGTRAP)
    }

    fn breakpoint(kind: BreakpointKind) -> Self {
        let reason = match kind {
            BreakpointKind::Software => MultiThreadStopReason::SwBreak(THREAD),
            BreakpointKind::Hardware => MultiThreadStopReason::HwBreak(THREAD),
        };
        Self { reason, message: None }
    }

    fn access(guest: &Guest, watchpoint: usize, address: u64) -> Self {
        let kind = guest.watchpoints.kind(watchpoint);
        Self { reason: MultiThreadStopReason::Watch { tid: THREAD, kind, addr: address }, message: None }
    }

    fn end_of_history(pos: ReplayLogPosition) -> Self {
        Self { reason: MultiThreadStopReason::ReplayLog { tid: Some(THREAD), pos }, message: None }
    }

    fn interrupted(position: Position) -> Self {
        Self {
            message: Some(format!("ktreplay: interrupted at position {position}")),
            ..Self::signal(Signal::SIGINT)
        }
    }

    fn step_at_end(position: Position) -> Self {
        Self {
            message: Some(format!("ktreplay: position {position} is the end of the recording")),
            ..Self::signal(Signal::SIGSTOP)
        }
    }

    fn failed(error: &ReplayError, position: Position) -> Self {
        log::warn!("the run stopped at position {position}: {error}");
        Self {
            message: Some(format!("ktreplay: stopped at position {position}: {error}")),
            ..Self::signal(Signal::SIGSTOP)
        }
    }
}

/// Runs until the request is met or `cancelled` says that the client wants a stop.
pub fn run(guest: &mut Guest, request: ResumeRequest, cancelled: &mut dyn FnMut() -> bool) -> Outcome {
    let outcome = match request {
        ResumeRequest::Continue => run_to_breakpoint(guest, Direction::Forward, cancelled),
        ResumeRequest::ReverseContinue => run_to_breakpoint(guest, Direction::Backward, cancelled),
        ResumeRequest::Step => step(guest, Direction::Forward, cancelled),
        ResumeRequest::ReverseStep => step(guest, Direction::Backward, cancelled),
        ResumeRequest::RangeStep { start, end } => step_range(guest, start, end, cancelled),
    };
    outcome.unwrap_or_else(|error| Outcome::failed(&error, guest.replay.position()))
}

/// The two ways through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To later positions.
    Forward,
    /// To earlier ones.
    Backward,
}

/// Runs to a breakpoint that counts, or to watched memory.
fn run_to_breakpoint(
    guest: &mut Guest,
    direction: Direction,
    cancelled: &mut dyn FnMut() -> bool,
) -> Result<Outcome, ReplayError> {
    let stop = StopAt {
        addresses: guest.breakpoints.addresses(),
        condition: guest.condition(),
        watchpoints: guest.watchpoints.watchpoints().to_vec(),
        position: None,
    };
    let stopped = match direction {
        Direction::Forward => guest.replay.run_forward(&stop, cancelled)?,
        Direction::Backward => guest.replay.run_backward(&stop, cancelled)?,
    };
    Ok(match stopped {
        Stop::Start => Outcome::end_of_history(ReplayLogPosition::Begin),
        Stop::End => Outcome::end_of_history(ReplayLogPosition::End),
        Stop::Cancelled => Outcome::interrupted(guest.replay.position()),
        Stop::Watchpoint { number, address, .. } => Outcome::access(guest, number, address),
        Stop::Address | Stop::Position => match guest.breakpoint_here() {
            BreakpointHere::Hit(kind) => Outcome::breakpoint(kind),
            BreakpointHere::None | BreakpointHere::ConditionFalse => Outcome::stepped(),
        },
    })
}

/// Makes one step, unless an access of watched memory comes first.
fn step(
    guest: &mut Guest,
    direction: Direction,
    cancelled: &mut dyn FnMut() -> bool,
) -> Result<Outcome, ReplayError> {
    if let Some(Stop::Watchpoint { number, address, .. }) = guest.access_here(direction, cancelled)? {
        return Ok(Outcome::access(guest, number, address));
    }
    Ok(match direction {
        Direction::Forward if step_forward(guest)? => Outcome::stepped(),
        Direction::Forward => Outcome::step_at_end(guest.replay.position()),
        Direction::Backward if step_backward(guest)? => Outcome::stepped(),
        Direction::Backward => Outcome::end_of_history(ReplayLogPosition::Begin),
    })
}

/// Moves one instruction forward; false at the end of the recording.
fn step_forward(guest: &mut Guest) -> Result<bool, ReplayError> {
    let here = guest.replay.position();
    if here >= guest.replay.end() {
        return Ok(false);
    }
    guest.replay.seek(Position(here.0 + 1)).map(|()| true)
}

/// Moves one instruction back; false at the start of the recording.
fn step_backward(guest: &mut Guest) -> Result<bool, ReplayError> {
    match guest.replay.position().0.checked_sub(1) {
        Some(before) => guest.replay.seek(Position(before)).map(|()| true),
        None => Ok(false),
    }
}

/// Steps until the program counter leaves the range, is unknown, or is at a breakpoint, or watched memory is accessed next.
fn step_range(
    guest: &mut Guest,
    start: u32,
    end: u32,
    cancelled: &mut dyn FnMut() -> bool,
) -> Result<Outcome, ReplayError> {
    let mut moved = false;
    loop {
        if let Some(Stop::Watchpoint { number, address, .. }) =
            guest.access_here(Direction::Forward, cancelled)?
        {
            return Ok(Outcome::access(guest, number, address));
        }
        if !step_forward(guest)? {
            return Ok(if moved {
                Outcome::stepped()
            } else {
                Outcome::step_at_end(guest.replay.position())
            });
        }
        moved = true;
        let Some(address) = guest.program_counter() else {
            return Ok(Outcome::stepped());
        };
        if let BreakpointHere::Hit(kind) = guest.breakpoint_here() {
            return Ok(Outcome::breakpoint(kind));
        }
        if !(start..end).contains(&address) {
            return Ok(Outcome::stepped());
        }
        if cancelled() {
            return Ok(Outcome::interrupted(guest.replay.position()));
        }
    }
}

/// gdbstub hands over what a client asked for; the session runs it afterwards. Signals mean nothing to a recording.
impl SingleThreadResume for Guest {
    fn resume(&mut self, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.request = Some(ResumeRequest::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<SingleThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Guest {
    fn step(&mut self, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.request = Some(ResumeRequest::Step);
        Ok(())
    }
}

impl SingleThreadRangeStepping for Guest {
    fn resume_range_step(&mut self, start: u64, end: u64) -> Result<(), Infallible> {
        // Admission lets only 32-bit addresses through; a range that reaches beyond ends with the address space.
        let [start, end] = [start, end].map(|address| u32::try_from(address).unwrap_or(u32::MAX));
        self.request = Some(ResumeRequest::RangeStep { start, end });
        Ok(())
    }
}

impl ReverseCont<()> for Guest {
    fn reverse_cont(&mut self) -> Result<(), Infallible> {
        self.request = Some(ResumeRequest::ReverseContinue);
        Ok(())
    }
}

impl ReverseStep<()> for Guest {
    fn reverse_step(&mut self, _thread: ()) -> Result<(), Infallible> {
        self.request = Some(ResumeRequest::ReverseStep);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::{Condition, Expression};
    use crate::recording::{self, SyntheticRecording};

    /// Bytecode of `$r0 == value`, as gdb 13.1 compiles it.
    fn r0_equals(value: u8) -> Condition {
        let bytecode = [0x26, 0, 0, 0x16, 32, 0x22, value, 0x13, 0x27];
        Condition::any_of(vec![Expression::decode(&bytecode).expect("well-formed")])
    }

    fn guest() -> Guest {
        Guest::new(Box::new(SyntheticRecording::short()))
    }

    fn run_freely(guest: &mut Guest, request: ResumeRequest) -> Outcome {
        run(guest, request, &mut || false)
    }

    #[test]
    fn breakpoints_count_only_after_moving_in_both_directions() {
        let mut guest = guest();
        guest.breakpoints.insert(BreakpointKind::Software, recording::LOOP_START, Condition::default());
        let mut positions = Vec::new();
        for _ in 0..3 {
            let outcome = run_freely(&mut guest, ResumeRequest::Continue);
            assert_eq!(outcome.reason, MultiThreadStopReason::SwBreak(THREAD));
            positions.push(guest.replay.position().0);
        }
        for _ in 0..2 {
            run_freely(&mut guest, ResumeRequest::ReverseContinue);
            positions.push(guest.replay.position().0);
        }
        assert_eq!(positions, [2, 6, 10, 6, 2]);
        let outcome = run_freely(&mut guest, ResumeRequest::ReverseContinue);
        assert_eq!(outcome, Outcome::end_of_history(ReplayLogPosition::Begin));
        assert_eq!(guest.replay.position(), Position(0));
    }

    #[test]
    fn a_breakpoint_whose_condition_is_false_does_not_count() {
        let mut guest = guest();
        guest.breakpoints.insert(BreakpointKind::Software, recording::LOOP_START + 8, r0_equals(3));
        assert_eq!(
            run_freely(&mut guest, ResumeRequest::Continue),
            Outcome::breakpoint(BreakpointKind::Software)
        );
        assert_eq!(guest.replay.position(), Position(12));
        let end = Outcome::end_of_history(ReplayLogPosition::End);
        assert_eq!(run_freely(&mut guest, ResumeRequest::Continue), end);
        run_freely(&mut guest, ResumeRequest::ReverseContinue);
        assert_eq!(guest.replay.position(), Position(12));
        // Of two at one address, the one counts whose condition is true.
        guest.breakpoints.insert(BreakpointKind::Hardware, recording::LOOP_START + 8, r0_equals(2));
        let outcome = run_freely(&mut guest, ResumeRequest::ReverseContinue);
        assert_eq!((outcome, guest.replay.position().0), (Outcome::breakpoint(BreakpointKind::Hardware), 8));
        let range = ResumeRequest::RangeStep { start: recording::LOOP_START, end: recording::AFTER_LOOP };
        assert_eq!(run_freely(&mut guest, range), Outcome::breakpoint(BreakpointKind::Software));
        assert_eq!(guest.replay.position(), Position(12));
    }

    #[test]
    fn a_condition_on_what_is_not_known_counts() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short().without_register(0)));
        guest.breakpoints.insert(BreakpointKind::Software, recording::LOOP_START, r0_equals(3));
        run_freely(&mut guest, ResumeRequest::Continue);
        assert_eq!(guest.replay.position(), Position(2));
    }

    #[test]
    fn a_hardware_breakpoint_is_told_as_one() {
        let mut guest = guest();
        guest.breakpoints.insert(BreakpointKind::Hardware, recording::LOOP_START, Condition::default());
        let outcome = run_freely(&mut guest, ResumeRequest::Continue);
        assert_eq!(outcome.reason, MultiThreadStopReason::HwBreak(THREAD));
    }

    #[test]
    fn at_the_end_a_continue_hears_of_the_log_and_a_step_of_a_signal() {
        let mut guest = guest();
        for _ in 0..2 {
            let outcome = run_freely(&mut guest, ResumeRequest::Continue);
            assert_eq!(outcome, Outcome::end_of_history(ReplayLogPosition::End));
        }
        let end = guest.replay.end();
        assert_eq!(guest.replay.position(), end);
        for request in [ResumeRequest::Step, ResumeRequest::RangeStep { start: 0, end: u32::MAX }] {
            assert_eq!(run_freely(&mut guest, request), Outcome::step_at_end(end));
        }
        assert_eq!(run_freely(&mut guest, ResumeRequest::ReverseStep), Outcome::stepped());
        assert_eq!(guest.replay.position(), Position(end.0 - 1));
        assert_eq!(run_freely(&mut guest, ResumeRequest::Step), Outcome::stepped());
        assert_eq!(guest.replay.position(), end);
    }

    #[test]
    fn a_step_back_at_the_start_hears_of_the_log() {
        let outcome = run_freely(&mut guest(), ResumeRequest::ReverseStep);
        assert_eq!(outcome, Outcome::end_of_history(ReplayLogPosition::Begin));
    }

    #[test]
    fn a_range_step_ends_outside_the_range_at_a_breakpoint_or_when_interrupted() {
        let whole_loop =
            ResumeRequest::RangeStep { start: recording::LOOP_START, end: recording::AFTER_LOOP };
        let mut guest = guest();
        guest.replay.seek(Position(2)).expect("in the recording");
        assert_eq!(run_freely(&mut guest, whole_loop), Outcome::stepped());
        assert_eq!(guest.program_counter(), Some(recording::AFTER_LOOP));
        assert_eq!(guest.replay.position(), Position(22));

        guest.replay.seek(Position(2)).expect("in the recording");
        guest.breakpoints.insert(BreakpointKind::Software, recording::LOOP_START + 8, Condition::default());
        assert_eq!(run_freely(&mut guest, whole_loop), Outcome::breakpoint(BreakpointKind::Software));
        assert_eq!(guest.replay.position(), Position(4));

        guest.breakpoints = Default::default();
        assert_eq!(run(&mut guest, whole_loop, &mut || true), Outcome::interrupted(Position(5)));

        let empty = ResumeRequest::RangeStep { start: 0, end: 0 };
        assert_eq!(run_freely(&mut guest, empty), Outcome::stepped());
        assert_eq!(guest.replay.position(), Position(6));
    }

    #[test]
    fn a_cancelled_run_says_where_it_is() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::endless()));
        let mut questions = 0;
        let outcome = run(&mut guest, ResumeRequest::Continue, &mut || {
            questions += 1;
            questions == 3
        });
        assert_eq!(outcome, Outcome::interrupted(guest.replay.position()));
        assert!(guest.replay.position() > Position(0));
    }
}
