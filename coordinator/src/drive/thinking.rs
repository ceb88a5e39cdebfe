//! The planner, on a thread of its own: a search may take seconds, and workers take a coordinator that
//! says nothing for so long for gone.

use super::planned::Kind;
use model::Model;
use planner::{Again, Cost, DeviceProfile, PlanOptions, PlannerError};
use protocol::{ModelHash, WorkerId};
use sim::rehearsal::Wish;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tiling::Plan;

/// What is to be thought about, with all that was known when it was asked.
pub(super) struct Question {
    pub(super) kind: Kind,
    pub(super) model: (ModelHash, Arc<Model>),
    /// Who is there, and what of each the planner knows.
    pub(super) slots: Vec<WorkerId>,
    pub(super) devices: Vec<DeviceProfile>,
    /// What of the wish those who are there can do.
    pub(super) options: PlanOptions,
    pub(super) asked: Asked,
}

pub(super) enum Asked {
    /// Frames wait for a plan.
    First,
    /// They have one.
    Next {
        known: Plan,
        /// Whether it makes room for any other that is found, however little that saves: those who came are
        /// to get work.
        anew: bool,
        /// What has changed since it was made.
        change: String,
    },
}

/// What came of a question.
pub(super) struct Thought {
    pub(super) question: Question,
    pub(super) answer: Answer,
}

pub(super) enum Answer {
    First(Result<(Plan, Cost), PlannerError>),
    Next { again: Result<Again, PlannerError>, change: String, took: Duration },
}

impl Question {
    fn answer(&mut self) -> Answer {
        let begun = Instant::now();
        let (devices, options) = (&self.devices, self.options);
        let (graph, strategy, rehearsed) = (&self.model.1, self.kind.strategy, true);
        let wish = Wish { graph, devices, strategy, options, rehearsed };
        match std::mem::replace(&mut self.asked, Asked::First) {
            Asked::First => Answer::First(wish.plan()),
            Asked::Next { known, anew, change } => {
                let again = match anew {
                    true => wish.plan().map(|(made, cost)| match made == known {
                        true => Again::Stays(cost),
                        false => Again::Changes(made, cost),
                    }),
                    false => wish.again(&known),
                };
                Answer::Next { again, change, took: begun.elapsed() }
            }
        }
    }
}

/// The way to the thread; it ends when this is dropped, after what it thinks about then.
pub(super) struct Thinker(mpsc::Sender<Question>);

impl Thinker {
    /// Starts the thread; `tell` hears every answer, in the order of the questions.
    ///
    /// *Errors*: the system refuses the thread.
    pub(super) fn start(tell: impl Fn(Thought) + Send + 'static) -> std::io::Result<Self> {
        let (questions, queue) = mpsc::channel::<Question>();
        std::thread::Builder::new().name("plan".into()).spawn(move || {
            for mut question in queue {
                let answer = question.answer();
                tell(Thought { question, answer });
            }
        })?;
        Ok(Self(questions))
    }

    pub(super) fn ask(&self, question: Question) {
        self.0.send(question).expect("the thread waits as long as it can be asked");
    }
}
