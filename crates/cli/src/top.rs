//! `overdue top`: a live view of all processes with sockets, and of one of them.
//!
//! The thread that draws waits for its inbox, and for nothing else: keys, signals, and what the threads beside it have
//! seen. What is shown is a pure function of the model, and what a key does is one, too. A look that takes long makes the
//! picture stale, and never the screen; a watch that is left ends beside.

mod draw;
mod model;
mod pages;
mod picture;
mod processes;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use overdue_why::collect::{Clock, Target};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use self::{
    draw::Palette,
    model::{Effect, Input, Model},
    terminal::Terminal,
    watching::{Leaving, Listing, Watching},
};
use crate::{args, exit::Exit, interrupt, screen::Screen};

/// What comes to the thread that draws.
#[derive(Debug)]
pub(crate) enum Mail {
    Input(Input),
    /// From a watch: of no use once another one, or none, is on the screen.
    Watched(u64, Input),
    /// The terminal is gone, or a signal says so.
    Leave,
    /// A thread beside broke.
    Broken,
}

/// How long the screen stays as it is when nothing comes: its ages go on.
const AGES: Duration = Duration::from_secs(1);

pub(crate) fn run(flags: &args::Top) -> anyhow::Result<Exit> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let pid = flags.pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
        bail!("there is no terminal to draw on: for a report to read or to store, `overdue why --pid {pid} [--json]`");
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        bail!("this terminal (TERM=dumb) cannot be drawn on: `overdue why --pid PID` prints a report");
    }
    if let Some(pid) = flags.pid {
        Target::new(pid)?;
    }
    let (post, inbox) = channel();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen for signals")?;
    let palette = Palette { colours: Screen::of(&io::stdout()).is_styled() };
    let mut terminal = Terminal::enter().context("cannot draw on this terminal")?;
    beside("overdue-signals", &post, move |post| {
        let mut first = None;
        for signal in signals.forever() {
            _ = post.send(Mail::Leave);
            let first = first.get_or_insert_with(Clock::start);
            if first.elapsed() >= interrupt::TOGETHER {
                // Whoever draws is stuck (a terminal that was stopped, say), or a watch does not end.
                terminal::leave_keys();
                interrupt::end(signal);
            }
        }
    })?;
    beside("overdue-keys", &post, keys)?;
    let model = Model::new(flags.pid);
    let mut session = Session { post, model, watching: None, leaving: Vec::new(), listing: None, watches: 0 };
    let ended = session.begin(flags.pid).and_then(|()| session.go_on(&inbox, &mut terminal, palette));
    // First the terminal, so that whoever waits can go on; then what is beside.
    drop(terminal);
    session.leave();
    Leaving::wait_for_all(&session.leaving);
    ended
}

/// A thread beside. When it panics the program ends.
fn beside(name: &str, post: &Sender<Mail>, work: impl FnOnce(Sender<Mail>) + Send + 'static) -> anyhow::Result<()> {
    let post = post.clone();
    let begun = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let guard = Guard(post.clone());
        work(post);
        std::mem::forget(guard);
    });
    begun.map(|_| ()).context("no thread could be started")
}

/// Tells of a panic.
struct Guard(Sender<Mail>);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.send(Mail::Broken);
    }
}

/// Reads keys until there is no terminal any more.
fn keys(post: Sender<Mail>) {
    loop {
        let mail = match event::read() {
            Ok(Event::Key(key)) => Mail::Input(Input::Key(key)),
            Ok(Event::Paste(text)) => {
                for letter in text.chars() {
                    _ = post.send(Mail::Input(Input::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE))));
                }
                continue;
            }
            Ok(_) => Mail::Input(Input::Redraw),
            Err(_) => Mail::Leave,
        };
        let is_last = matches!(mail, Mail::Leave);
        if post.send(mail).is_err() || is_last {
            return;
        }
    }
}

/// One run.
struct Session {
    post: Sender<Mail>,
    model: Model,
    watching: Option<Watching>,
    /// Those that were left and have not ended yet.
    leaving: Vec<Leaving>,
    listing: Option<Listing>,
    watches: u64,
}

impl Session {
    fn begin(&mut self, pid: Option<u32>) -> anyhow::Result<()> {
        match pid {
            Some(pid) => self.attach(pid),
            None => self.list(),
        }
    }

    fn list(&mut self) -> anyhow::Result<()> {
        self.listing = Some(Listing::begin(&self.post)?);
        Ok(())
    }

    fn attach(&mut self, pid: u32) -> anyhow::Result<()> {
        self.listing = None;
        self.watches += 1;
        self.watching = Some(Watching::begin(self.watches, pid, &self.post)?);
        Ok(())
    }

    fn leave(&mut self) {
        self.leaving.retain(|leaving| !leaving.is_over());
        self.leaving.extend(self.watching.take().map(Watching::leave));
    }

    fn go_on(&mut self, inbox: &Receiver<Mail>, terminal: &mut Terminal, palette: Palette) -> anyhow::Result<Exit> {
        let clock = Clock::start();
        loop {
            if terminal.draw(|frame| draw::draw(&self.model, palette, frame)).is_err() {
                // Nobody looks any more.
                return Ok(Exit::Fine);
            }
            let mut mail = match inbox.recv_timeout(AGES) {
                Ok(mail) => Some(mail),
                Err(RecvTimeoutError::Timeout) => Some(Mail::Input(Input::Redraw)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Fine),
            };
            // What is there already is taken before the screen is drawn once.
            while let Some(came) = mail {
                if let Some(exit) = self.take(came, clock.elapsed())? {
                    return Ok(exit);
                }
                mail = inbox.try_recv().ok();
            }
        }
    }

    fn take(&mut self, mail: Mail, now: Duration) -> anyhow::Result<Option<Exit>> {
        let input = match mail {
            Mail::Leave => return Ok(Some(Exit::Interrupted)),
            Mail::Broken => bail!("a part of overdue broke: what is above says where"),
            Mail::Watched(watch, _) if watch != self.watches || self.watching.is_none() => return Ok(None),
            // Nothing was seen yet, and there is no list to go back to.
            Mail::Watched(_, Input::Failed(why)) if self.model.list.is_none() => bail!(why),
            Mail::Watched(_, input) | Mail::Input(input) => input,
        };
        match self.model.update(input, now) {
            None => {}
            Some(Effect::Quit) => return Ok(Some(Exit::Fine)),
            Some(Effect::Attach(pid)) => self.attach(pid)?,
            Some(Effect::Detach) => {
                self.leave();
                self.list()?;
            }
        }
        Ok(None)
    }
}
