//! The encoders' threads: each takes the next segment, encodes it while the guest runs, and writes it when its turn comes.
//!
//! On two cores the vCPU's thread has one and the encoders share the other, and what the vCPU's leaves while it waits for
//! them; on more, as many segments are encoded at a time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use ktrace_format::TraceWriter;
use ktrace_format::segment::Committer;
use ktrace_format::segment::encoder::{Encoded, Finished};
use ktrace_machine::InstructionSet;

use crate::block::Shared as SharedBlocks;
use crate::control::{Control, Message};
use crate::encoder::{Delta, Outcome, SegmentError, Worker};
use crate::event::EndReason;
use crate::initial::Initial;
use crate::names::Names;
use crate::ring::Segment;
use crate::shared::Shared;

/// A segment is closed after at most this long, if the guest executes anything.
const SEGMENT_TIME: Duration = Duration::from_millis(900);
/// How often `ktracer record` hears of progress.
const PROGRESS_TIME: Duration = Duration::from_millis(200);
/// More encoders than this have nothing to do: one vCPU can't keep them busy.
const MOST_WORKERS: usize = 4;

/// Why the recording failed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Writing failed.
    #[error("can't write the trace in {directory}: {source}", directory = .directory.display())]
    Write {
        /// The trace's directory.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A segment could not be encoded.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The vCPU's side failed.
    #[error("{0}")]
    Vcpu(String),
    /// An encoder's thread panicked.
    #[error("an encoder's thread panicked, see above: this is a bug in ktracer")]
    Panic,
}

/// Everything that the threads need.
pub struct Setup {
    /// What the guest executes.
    pub set: InstructionSet,
    /// Where segments come from.
    pub segments: Receiver<Segment>,
    /// What other encoders' segments show of mappings, one queue for each encoder.
    pub deltas: Vec<Deltas>,
    /// The trace.
    pub trace: TraceWriter,
    /// Its directory.
    pub directory: PathBuf,
    /// Blocks by serial number.
    pub blocks: SharedBlocks,
    /// Names.
    pub names: Names,
    /// What they share with the vCPU.
    pub shared: Arc<Shared>,
    /// `ktracer record`.
    pub control: Arc<Control>,
}

/// Where one encoder hears of mappings.
pub type Deltas = Receiver<Arc<Delta>>;

/// How many encoders this machine has use for, and the queues to tell them of mappings.
pub fn deltas() -> (Vec<Sender<Arc<Delta>>>, Vec<Deltas>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..cores.clamp(2, MOST_WORKERS)).map(|_| channel()).unzip()
}

/// Segments on their way into the file.
struct Queue {
    /// The next to be written.
    next: u64,
    /// Those that are encoded and wait for their turn.
    waiting: BTreeMap<u64, (Encoded, Result<Outcome, SegmentError>)>,
    /// Used ones.
    spare: Vec<Encoded>,
    /// What writes; `None` while a thread has it.
    output: Option<Output>,
    /// How the recording ended.
    end: Option<Result<EndReason, PipelineError>>,
}

struct Output {
    trace: TraceWriter,
    committer: Option<Committer<Initial>>,
    finished: Finished,
    names_written: usize,
    blocks_written: usize,
    position: u64,
    told: Instant,
}

struct Threads {
    set: InstructionSet,
    segments: Mutex<Receiver<Segment>>,
    queue: Mutex<Queue>,
    initial: OnceLock<Arc<Initial>>,
    directory: PathBuf,
    blocks: SharedBlocks,
    names: Names,
    shared: Arc<Shared>,
    control: Arc<Control>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        // What a panicking thread left is told as an error; the others come to an end.
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Runs until the recording ends; then the trace is closed. The last thing it does is to tell `ktracer record`.
pub fn run(setup: Setup) {
    let Setup { set, segments, deltas, trace, directory, blocks, names, shared, control } = setup;
    let over = Arc::new(AtomicBool::new(false));
    let ticker = {
        let (over, shared) = (Arc::clone(&over), Arc::clone(&shared));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(SEGMENT_TIME);
                shared.ask_for_cut();
            }
        })
    };
    let output = Output {
        trace,
        committer: None,
        finished: Finished::default(),
        names_written: 0,
        blocks_written: 0,
        position: 0,
        told: Instant::now(),
    };
    let queue =
        Queue { next: 0, waiting: BTreeMap::new(), spare: Vec::new(), output: Some(output), end: None };
    let threads = Threads {
        set,
        segments: Mutex::new(segments),
        queue: Mutex::new(queue),
        initial: OnceLock::new(),
        directory,
        blocks,
        names,
        shared,
        control,
    };
    let panicked = std::thread::scope(|scope| {
        let workers: Vec<_> = deltas
            .into_iter()
            .map(|deltas| {
                let threads = &threads;
                std::thread::Builder::new()
                    .name("ktracer-encoder".to_owned())
                    .spawn_scoped(scope, move || threads.work(&deltas))
            })
            .collect();
        let mut panicked = false;
        for worker in workers {
            panicked |= worker.is_err() || worker.is_ok_and(|worker| worker.join().is_err());
        }
        panicked
    });
    over.store(true, Ordering::Relaxed);
    ticker.thread().unpark();
    // It only sleeps and stores; joining it can't fail for a reason that matters here.
    let _ = ticker.join();
    threads.close(panicked);
}

/// Reads a segment for nothing.
fn drain(segment: &Segment) {
    let Ok(()) = segment.read(|_| Ok::<(), std::convert::Infallible>(()));
}

impl Threads {
    /// One encoder's thread.
    fn work(&self, deltas: &Deltas) {
        let mut worker = None;
        let mut next_delta: Option<Arc<Delta>> = None;
        loop {
            let Ok(segment) = lock(&self.segments).recv() else { return };
            let sequence = segment.start.sequence;
            if self.shared.failed.load(Ordering::Relaxed) {
                drain(&segment);
                continue;
            }
            let mut encoded = lock(&self.queue).spare.pop().unwrap_or_default();
            let encode = AssertUnwindSafe(|| {
                let worker = self.worker(&mut worker)?;
                while let Some(delta) = next_delta.take().or_else(|| deltas.try_recv().ok()) {
                    if delta.sequence >= sequence {
                        next_delta = Some(delta);
                        break;
                    }
                    worker.learn(&delta)?;
                }
                worker.encode(&segment, &mut encoded)
            });
            let result = catch_unwind(encode).unwrap_or(Err(SegmentError::Panic));
            if result.is_err() {
                // The vCPU must not wait for the chunks of a segment that nobody reads.
                self.shared.failed.store(true, Ordering::Relaxed);
                drain(&segment);
            }
            self.hand_in(sequence, encoded, result);
        }
    }

    fn worker<'a>(&self, worker: &'a mut Option<Worker>) -> Result<&'a mut Worker, SegmentError> {
        // Only when there is a segment has the initial memory been captured.
        let initial = self.initial.get_or_init(|| Arc::new(Initial::open(&self.directory)));
        match worker {
            Some(worker) => Ok(worker),
            None => {
                let new =
                    Worker::new(self.set, Arc::clone(initial), Arc::clone(&self.blocks), self.names.clone());
                Ok(worker.insert(new.map_err(SegmentError::Compress)?))
            }
        }
    }

    /// Puts an encoded segment into the queue, and writes what is at its head unless another thread does.
    fn hand_in(&self, sequence: u64, encoded: Encoded, result: Result<Outcome, SegmentError>) {
        let mut queue = lock(&self.queue);
        queue.waiting.insert(sequence, (encoded, result));
        let Some(mut output) = queue.output.take() else { return };
        loop {
            let next = queue.next;
            let Some((mut encoded, result)) = queue.waiting.remove(&next) else { break };
            queue.next += 1;
            let is_over = queue.end.is_some();
            drop(queue);
            let end = if is_over { None } else { self.write(&mut output, &mut encoded, result) };
            if let Some(end) = &end {
                self.shared.failed.store(end.is_err(), Ordering::Relaxed);
            }
            queue = lock(&self.queue);
            queue.spare.push(encoded);
            if end.is_some() {
                queue.end = end;
            }
        }
        queue.output = Some(output);
    }

    fn write(
        &self,
        output: &mut Output,
        encoded: &mut Encoded,
        result: Result<Outcome, SegmentError>,
    ) -> Option<Result<EndReason, PipelineError>> {
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return Some(Err(error.into())),
        };
        if let Err(source) = self.try_write(output, encoded) {
            return Some(Err(PipelineError::Write { directory: self.directory.clone(), source }));
        }
        if output.told.elapsed() >= PROGRESS_TIME {
            output.told = Instant::now();
            let bytes = output.trace.bytes();
            self.control.tell(&Message::Progress { instructions: output.position, bytes });
        }
        outcome.end.map(|reason| match reason {
            EndReason::Error => {
                let error = lock(&self.shared.error).take();
                Err(PipelineError::Vcpu(error.unwrap_or_else(|| "the recording failed".to_owned())))
            }
            reason => Ok(reason),
        })
    }

    fn try_write(&self, output: &mut Output, encoded: &mut Encoded) -> std::io::Result<()> {
        let Output { trace, committer, finished, names_written, blocks_written, position, .. } = output;
        self.names.each_from(*names_written, |name| {
            trace.name(name);
            *names_written += 1;
        });
        let blocks = lock(&self.blocks);
        for block in blocks.iter().skip(*blocks_written) {
            trace.block(block.address, block.decoded.mode().bits(), &block.code);
            *blocks_written += 1;
        }
        drop(blocks);
        let committer = match committer {
            Some(committer) => committer,
            None => {
                let initial = self.initial.get_or_init(|| Arc::new(Initial::open(&self.directory)));
                committer.insert(Committer::new(Arc::clone(initial))?)
            }
        };
        committer.commit(*position, encoded, finished)?;
        trace.segment(finished)?;
        *position += finished.head.instructions;
        self.shared.committed(finished.head.instructions);
        Ok(())
    }

    /// Closes the trace and tells how it went.
    fn close(self, panicked: bool) {
        let Threads { queue, directory, shared, control, .. } = self;
        let queue = match queue.into_inner() {
            Ok(queue) => queue,
            Err(poisoned) => poisoned.into_inner(),
        };
        // Without an end: QEMU unloads the plugin, or has never run.
        let outcome = match queue.end {
            Some(outcome) => outcome,
            None if panicked => Err(PipelineError::Panic),
            None => match lock(&shared.error).take() {
                Some(error) => Err(PipelineError::Vcpu(error)),
                None => Ok(EndReason::Exit),
            },
        };
        let (reason, error) = match outcome {
            Ok(reason) => (reason, None),
            Err(error) => (EndReason::Error, Some(error.to_string())),
        };
        shared.failed.store(error.is_some(), Ordering::Relaxed);
        // A thread that panicked while it wrote took the writer with it: the trace stays as a killed recorder leaves it.
        let Some(Output { trace, .. }) = queue.output else {
            eprintln!("ktracer: {}", PipelineError::Panic);
            return;
        };
        let bytes = trace.bytes();
        let shown = directory.clone();
        let mut totals = trace.totals().clone();
        let closed = trace.close(error.as_deref().unwrap_or(reason.name()));
        let error = match (&closed, error) {
            (Err(source), None) => {
                let source = std::io::Error::new(source.kind(), source.to_string());
                Some(PipelineError::Write { directory, source }.to_string())
            }
            (_, error) => error,
        };
        if let Some(error) = &error {
            eprintln!(
                "ktracer: the recording ended early: {error}. The guest runs on; what was recorded before is kept."
            );
        }
        if !control.is_present() {
            eprintln!(
                "ktracer: recorded {} instructions in {}, {bytes} bytes; replay them with: ktreplay {}",
                totals.instructions,
                shown.display(),
                shown.display()
            );
        }
        let is_closed = closed.is_ok();
        if let Ok(closed) = closed {
            totals = closed;
        }
        control.tell(&Message::Finished {
            instructions: totals.instructions,
            blocks: totals.blocks,
            segments: totals.segments,
            bytes,
            closed: is_closed,
            reason: reason.name(),
            error,
        });
    }
}
