//! The terminal: taken when the view begins, and given back whatever ends it.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    panic,
    sync::Once,
};

use ratatui::{
    Frame,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{
            BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
            LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
        },
    },
};

/// The screen is ours as long as this lives.
pub(crate) struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Terminal {
    /// Another screen, keys one by one. A panic of any thread gives the terminal back before it says what happened.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        enable_raw_mode()?;
        // The terminal is asked nothing: one that does not answer would keep everybody waiting.
        let entered = execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All)).and_then(|()| {
            Ok(Self { inner: ratatui::Terminal::new(CrosstermBackend::new(BufWriter::new(io::stdout())))? })
        });
        if entered.is_err() {
            give_back();
        }
        entered
    }

    /// Draws what has changed, as one piece.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        execute!(self.inner.backend_mut(), BeginSynchronizedUpdate)?;
        self.inner.draw(draw)?;
        execute!(self.inner.backend_mut(), EndSynchronizedUpdate)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Keys are the terminal's again. It writes nothing: nobody may read it.
pub(super) fn leave_keys() {
    _ = disable_raw_mode();
}

/// As it was before. To a terminal that is gone nothing can be given back.
fn give_back() {
    _ = execute!(io::stdout(), EndSynchronizedUpdate, LeaveAlternateScreen, Show);
    _ = disable_raw_mode();
    _ = io::stdout().flush();
}
