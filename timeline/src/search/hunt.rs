//! Looks through candidates, several at a time, and tells what each had, in their order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::Engine;
use crate::journal::NoJournal;
use crate::program::Program;

/// How often it is asked whether the search was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Engines that look through segments, kept from one search to the next.
pub(crate) struct Scouts {
    program: Arc<Program>,
    idle: Mutex<Vec<Engine<NoJournal>>>,
}

impl Scouts {
    pub(crate) fn new(program: Arc<Program>) -> Scouts {
        Scouts { program, idle: Mutex::new(Vec::new()) }
    }

    /// Lends an engine.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Engine<NoJournal>) -> R) -> R {
        let idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let mut engine = idle.unwrap_or_else(|| Engine::new(Arc::clone(&self.program)));
        let result = work(&mut engine);
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(engine);
        result
    }
}

/// Says to those who look through segments that nobody wants their results any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct GiveUp(Arc<AtomicBool>);

impl GiveUp {
    /// Whether to give up.
    pub(crate) fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says so.
    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The hunt was cancelled; where it had got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancelled {
    /// The first candidate that was not done; `None`: none had been begun.
    pub(crate) at: Option<usize>,
}

/// Does `work` on each candidate, on rayon's current thread pool, and tells `take` the results in the candidates' order, until
/// it has enough. `work` is told when to give up; what it returns then is not used.
pub(crate) fn hunt<T: Send>(
    candidates: impl Iterator<Item = Option<usize>>,
    work: &(dyn Fn(usize, &GiveUp) -> T + Sync),
    cancelled: &mut dyn FnMut() -> bool,
    take: &mut dyn FnMut(usize, T) -> ControlFlow<()>,
) -> Result<(), Cancelled> {
    let give_up = GiveUp::default();
    let threads = rayon::current_num_threads();
    let mut candidates = candidates.fuse();
    rayon::in_place_scope(|scope| {
        // The scope waits for those under way.
        let _end = AtEnd(&give_up);
        let (sender, receiver) = mpsc::channel();
        // In the order of the candidates: those under way, or done and not told.
        let mut order = VecDeque::new();
        let mut done: BTreeMap<usize, T> = BTreeMap::new();
        // The nearest one often has it: others are begun when it was not enough.
        let mut at_once = 1;
        let mut exhausted = false;
        loop {
            if cancelled() {
                return Err(Cancelled { at: order.front().copied() });
            }
            let under_way = order.len() - done.len();
            let room = under_way < at_once && order.len() < 4 * at_once && !exhausted;
            if room {
                match candidates.next() {
                    Some(Some(number)) => {
                        order.push_back(number);
                        let (sender, give_up) = (sender.clone(), &give_up);
                        scope.spawn(move |_| {
                            let result = work(number, give_up);
                            // Nobody listens any more if there was enough.
                            let _ = sender.send((number, result));
                        });
                    }
                    Some(None) => {}
                    None => exhausted = true,
                }
            } else if order.is_empty() {
                return Ok(());
            }
            // While there is room for more, only what is there is taken.
            let wait = if room { Duration::ZERO } else { POLL_INTERVAL };
            if let Ok((number, result)) = receiver.recv_timeout(wait) {
                done.insert(number, result);
            }
            while let Some(number) = order.front().copied() {
                let Some(result) = done.remove(&number) else { break };
                if take(number, result).is_break() {
                    return Ok(());
                }
                order.pop_front();
                at_once = threads;
            }
        }
    })
}

/// Tells those under way to give up.
struct AtEnd<'a>(&'a GiveUp);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.say();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn results_come_in_order_and_no_more_than_needed() {
        let begun = AtomicUsize::new(0);
        let work = |number: usize, _: &GiveUp| {
            begun.fetch_add(1, Ordering::Relaxed);
            // The first ones take longest.
            std::thread::sleep(Duration::from_millis(20 / (number as u64 + 1)));
            number * 10
        };
        let candidates = (0..1000).map(|number| (number % 3 != 1).then_some(number));
        let mut told = Vec::new();
        let outcome = hunt(candidates, &work, &mut || false, &mut |number, result| {
            assert_eq!(result, number * 10);
            told.push(number);
            if told.len() == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(outcome, Ok(()));
        let expected: Vec<usize> = (0..1000).filter(|number| number % 3 != 1).take(20).collect();
        assert_eq!(told, expected);
        assert!(begun.into_inner() <= 20 + 4 * rayon::current_num_threads());
    }

    #[test]
    fn it_is_cancelled_while_work_is_under_way() {
        let work = |_: usize, give_up: &GiveUp| {
            while !give_up.now() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let mut asked = 0;
        let mut cancelled = || {
            asked += 1;
            asked > 3
        };
        let outcome = hunt((7..20).map(Some), &work, &mut cancelled, &mut |_, ()| ControlFlow::Continue(()));
        assert_eq!(outcome, Err(Cancelled { at: Some(7) }));
    }
}
