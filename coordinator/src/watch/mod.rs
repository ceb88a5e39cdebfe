//! A live view of a cluster in the terminal: devices, links, load, heat, who does what.
//!
//! | file | idea |
//! |---|---|
//! | `view.rs` | what is shown, from two looks at the cluster |
//! | `draw.rs` | how it is drawn |
//! | `beside.rs` | while a run goes on |

mod beside;
mod draw;
mod view;

pub(crate) use beside::Beside;

use crate::cluster::Cluster;
use crate::failure::Failure;
use anyhow::{Context, Result, anyhow};
use net::{Register, now_unix_s};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use view::{Look, View};

/// Between two looks at the cluster.
const EVERY: Duration = Duration::from_millis(500);

/// Between two looks at the keyboard.
const KEYS_EVERY: Duration = Duration::from_millis(50);

/// A view needs a terminal: elsewhere its control characters would be litter.
///
/// *Errors*: standard output is none.
pub(crate) fn needs_terminal(instead: &str) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Failure::bad_input(anyhow!("--watch draws in a terminal, and this is none")).hint(instead))
}

/// Draws a cluster until `done` ends or a person presses q. `register` tells who is away.
///
/// *Errors*: the terminal cannot be drawn to, the coordinator stopped.
pub(crate) async fn watch(
    cluster: &Cluster,
    title: &str,
    register: Option<&Register>,
    done: impl Future<Output = ()>,
) -> Result<()> {
    let mut terminal = Screen::open()?;
    let mut keys = Keys::listen();
    let mut ticks = tokio::time::interval(EVERY);
    let mut last: Option<Look> = None;
    tokio::pin!(done);
    loop {
        tokio::select! {
            () = &mut done => return Ok(()),
            key = keys.pressed.recv() => match key {
                Some(Pressed::Quit) | None => return Ok(()),
                Some(Pressed::Redraw) => {}
            },
            _ = ticks.tick() => {}
        }
        let look = Look::at(cluster).await?;
        let members =
            register.map(Register::read).transpose().context("cannot tell who is away")?;
        let view = View::new(title, &look, last.as_ref(), members.as_ref(), now_unix_s());
        terminal.0.draw(|frame| draw::draw(frame, &view)).context("cannot draw")?;
        // Two looks that follow each other at once, as after a key, say nothing about rates.
        if last.as_ref().is_none_or(|last| look.at - last.at >= EVERY / 2) {
            last = Some(look);
        }
    }
}

/// The other screen of the terminal; the first one comes back when this is dropped, after a panic
/// too.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> Result<Self> {
        Ok(Self(ratatui::try_init().context("cannot take over the terminal")?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Brings the first screen of the terminal back; twice does no harm.
fn give_back() {
    ratatui::restore();
}

enum Pressed {
    Quit,
    Redraw,
}

/// A thread that waits for keys, which the terminal gives to nobody but a blocked reader.
struct Keys {
    pressed: mpsc::Receiver<Pressed>,
    over: Arc<AtomicBool>,
}

impl Keys {
    fn listen() -> Self {
        let (tell, pressed) = mpsc::channel(8);
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let event = match event::poll(KEYS_EVERY) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let told = match event {
                    Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                        // In a raw terminal Ctrl-C is a key like any other.
                        let interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                            && key.code == KeyCode::Char('c');
                        let quit = [KeyCode::Char('q'), KeyCode::Esc].contains(&key.code);
                        if quit || interrupt { Some(Pressed::Quit) } else { None }
                    }
                    Ok(Event::Resize(..)) => Some(Pressed::Redraw),
                    Ok(_) => None,
                    Err(_) => return,
                };
                if told.is_some_and(|told| tell.blocking_send(told).is_err()) {
                    return;
                }
            }
        });
        Self { pressed, over }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
