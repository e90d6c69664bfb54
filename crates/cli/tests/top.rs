//! `overdue top` in a terminal: on targets of the lab, with keys, until it is quit or ended.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![expect(clippy::disallowed_methods, reason = "a terminal cannot be paused")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use overdue_lab::target::{Running, Target};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Action, LocalModes, Winsize, tcflow, tcgetattr, tcsetwinsize},
};

/// How long anything may take to be on the screen.
const WITHIN: Duration = Duration::from_secs(20);

/// The program, on a terminal that is read as one who sits before it would.
struct Terminal {
    child: Child,
    keyboard: File,
    /// The other side, held so that its modes can be asked for.
    slave: File,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

impl Terminal {
    fn new(args: &[&str]) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = fs::OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
        command.arg("top").args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let keyboard = File::from(master.try_clone().unwrap());
        let (send, output) = channel();
        thread::spawn(move || {
            let (mut master, mut bytes) = (File::from(master), [0; 4096]);
            // A terminal whose other side is gone ends with an error.
            while let Ok(count) = master.read(&mut bytes)
                && count > 0
                && send.send(bytes.get(..count).unwrap_or_default().to_vec()).is_ok()
            {}
        });
        Self { child, keyboard, slave, output, screen: vt100::Parser::new(24, 80, 0) }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen is as it should be.
    fn until(&mut self, what: &str, is_there: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_there(&self.text()) {
            let left = WITHIN.saturating_sub(begun.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => panic!("{what} is not on the screen:\n{}", self.text()),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before {what}:\n{}", self.text()),
            }
        }
    }

    fn sees(&mut self, part: &str) {
        self.until(part, |text| text.contains(part));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It ends soon, and the terminal is as it was.
    fn ends(mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "it does not end:\n{}", self.text());
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(50)) {
                self.screen.process(&bytes);
            }
        };
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(100)) {
            self.screen.process(&bytes);
        }
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen(), "the other screen was left behind");
        assert!(!screen.hide_cursor(), "the cursor is hidden");
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "the terminal stays raw");
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn target(name: &str) -> Running {
    Target::named(name).unwrap().start().unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_pile_up_is_found_read_and_left() {
    let running = target("close-wait-pileup");
    let mut terminal = Terminal::new(&["--pid", &running.pid().to_string()]);
    terminal.sees("close-wait-pileup ");
    terminal.sees("CLOSE_WAIT");
    terminal.press("\r");
    terminal.sees("EVIDENCE");
    terminal.press("\u{1b}");
    terminal.sees("c:CONNECTIONS");
    terminal.press("c/127.0.0.1\r");
    terminal.sees("with \"127.0.0.1\"");
    terminal.press("?");
    terminal.sees("KEYS");
    terminal.press("q");
    terminal.sees("v:VERDICTS");
    terminal.press("q");
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn a_process_is_chosen_from_the_list_and_its_end_is_told() {
    let running = target("fd-leak-accept");
    let pid = running.pid().to_string();
    let mut terminal = Terminal::new(&[]);
    terminal.sees("PROCESSES");
    terminal.press(&format!("/{pid}\r"));
    terminal.until("the leak, alone", |text| text.contains("PROCESSES 1 of") && text.contains("fd_leak"));
    terminal.press("\r");
    terminal.until("a verdict", |text| text.contains("fd-leak ") || text.contains("close-wait-pileup "));
    drop(running);
    terminal.sees("IT HAS ENDED");
    assert!(terminal.text().contains(&pid), "the last picture stays:\n{}", terminal.text());
    terminal.press("\u{1b}");
    terminal.sees("PROCESSES");
    terminal.press("\u{3}");
    assert_eq!(terminal.ends().code(), Some(0));
}

/// The kernel closes all that it had; how that was before is what is worth reading.
#[test]
fn of_one_that_is_killed_the_last_states_stay() {
    let running = target("close-wait-pileup");
    let mut terminal = Terminal::new(&["--pid", &running.pid().to_string()]);
    terminal.sees("CLOSE_WAIT");
    drop(running);
    terminal.sees("IT HAS ENDED");
    let text = terminal.text();
    let states: Vec<&str> = text.lines().skip(7).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(states.contains(&"CLOSE_WAIT") && !states.contains(&"CLOSED"), "{text}");
    terminal.press("q");
    assert_eq!(terminal.ends().code(), Some(0));
}

/// A process that does nothing, ended with its owner.
struct Idle(Child);

impl Drop for Idle {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let idle = Idle(Command::new("sleep").arg("60").spawn().unwrap());
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::new(&["--pid", &idle.0.id().to_string()]);
        terminal.sees("watched");
        terminal.signal(signal);
        assert_eq!(terminal.ends().code(), Some(130), "{signal:?}");
    }
}

/// Who draws on a terminal that was stopped (Ctrl-S, a line that is gone) cannot leave by itself; a second signal ends it.
#[test]
fn a_terminal_that_takes_nothing_keeps_nobody() {
    let mut terminal = Terminal::new(&[]);
    terminal.sees("PROCESSES");
    tcflow(&terminal.slave, Action::OOff).unwrap();
    // It draws once a second: soon it is stuck. Signals that come together are one.
    let begun = Instant::now();
    let status = loop {
        terminal.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(700));
        if let Some(status) = terminal.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < WITHIN, "it does not end");
    };
    assert!(status.signal() == Some(Signal::TERM.as_raw()), "{status:?}");
    let modes = tcgetattr(&terminal.slave).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "the terminal stays raw");
}

#[test]
fn a_window_that_changes_is_drawn_anew() {
    let mut terminal = Terminal::new(&[]);
    terminal.sees("PROCESSES");
    tcsetwinsize(&terminal.slave, Winsize { ws_row: 5, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    // It is no child of this terminal's session, so nobody else tells it.
    terminal.signal(Signal::WINCH);
    terminal.sees("too small");
    tcsetwinsize(&terminal.slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    terminal.signal(Signal::WINCH);
    terminal.sees("PROCESSES");
    terminal.press("q");
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn without_a_terminal_it_says_what_to_do_instead() {
    let top = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
        command.arg("top").args(args).stdin(Stdio::null()).output().unwrap()
    };
    let output = top(&["--pid", "1"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text.contains("no terminal") && text.contains("overdue why --pid 1"), "{text}");
}
