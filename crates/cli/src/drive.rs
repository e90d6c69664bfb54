//! Makes calls as their plan says, with all that their caller does to them: `get`, the lab and the demo share it.

use std::{io, os::fd::AsRawFd, thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use http::{StatusCode, header::LOCATION, response};
use http_body_util::BodyExt as _;
use overdue::{CallLog, Client, Context};
use overdue_core::{Limits, Report};
use overdue_lab::{Caller, Fault, Scenario, Trouble};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use url::Url;

use crate::{
    plan::{Message, Plan, uri},
    sink::{Output, Sink},
};

/// Where browsers stop, too.
const REDIRECTS_MAX: usize = 20;

/// How long the preparation of a scenario may take, which is no part of the call.
const PREPARATION_LIMIT: Duration = Duration::from_secs(10);

/// A client with its plan, ready for the calls that are to be judged.
#[derive(Debug)]
pub(crate) struct Ready {
    plan: Plan,
    client: Client,
    fault: Option<Fault>,
    /// Calls of its own that hold a connection or a stream, until this is dropped.
    holders: JoinSet<()>,
    starved: Option<Starved>,
}

/// A call that was made.
#[derive(Debug)]
pub(crate) struct Called {
    /// What was sent last.
    pub(crate) message: Message,
    pub(crate) answer: Answer,
    /// The calls that led there.
    pub(crate) redirects: Vec<Redirect>,
    /// Why the last answer, a redirect, was not followed, when it should have been.
    pub(crate) not_followed: Option<NotFollowed>,
}

/// A redirect that was not followed.
#[derive(Debug)]
pub(crate) enum NotFollowed {
    /// There is nothing here that it could be followed with.
    Unusable(String),
    /// There were too many of them before.
    TooMany(Url),
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) report: Report,
    /// The head of the response, when one came.
    pub(crate) head: Option<response::Parts>,
    pub(crate) body_bytes: u64,
    /// Why the body is not, or not all, where it should have been written.
    pub(crate) unwritten: Option<anyhow::Error>,
}

/// A call that was answered with another address.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) report: Report,
}

/// A scenario that was called.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) called: Called,
    pub(crate) limits: Limits,
}

/// Starts a scenario and makes its call. For one that needs a namespace the process has entered one.
pub(crate) async fn run_scenario(scenario: &Scenario, parent: &Context) -> anyhow::Result<Ran> {
    let fault = Fault::start(scenario)?;
    let plan = Plan::of_scenario(scenario, &fault)?;
    let ready = Ready::new(plan, Some(fault), parent).await?;
    let called = ready.call(parent, &Output::Counted).await?;
    ready.check_server()?;
    Ok(Ran { called, limits: ready.plan.limits.clone() })
}

impl Ready {
    /// Makes the client, and the calls that come before the one that is to be judged.
    pub(crate) async fn new(plan: Plan, fault: Option<Fault>, parent: &Context) -> anyhow::Result<Self> {
        let client = plan.client()?;
        let mut ready = Self { plan, client, fault, holders: JoinSet::new(), starved: None };
        let caller = ready.plan.caller.clone();
        if ready.plan.warm {
            let context = parent.branch();
            let warm_up = ready.exchange(&context, &ready.plan.message, &Output::Counted);
            let answer =
                timeout(PREPARATION_LIMIT, warm_up).await.context("the call that comes first did not end")??;
            ensure!(answer.report.outcome == "ok", "the call that comes first failed{}", ready.complaints());
        }
        if caller.holds() {
            let (client, context, request) = (ready.client.clone(), parent.branch(), ready.plan.message.request()?);
            ready.holders.spawn(async move {
                // Its end is the end of its task.
                _ = client.call(&context, request).await;
            });
        }
        if let Some(fault) = ready.fault.as_ref().filter(|_| ready.plan.warm || caller.holds()) {
            let armed = timeout(PREPARATION_LIMIT, fault.armed()).await;
            ensure!(armed == Ok(true), "the fault server did not get as far as its fault{}", ready.complaints());
        }
        if caller == Caller::NoFds {
            ready.starved = Some(Starved::begin().context("cannot take all file descriptors")?);
        }
        Ok(ready)
    }

    /// What is called.
    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What will be called, to be changed after the calls that come before it.
    pub(crate) const fn message_mut(&mut self) -> &mut Message {
        &mut self.plan.message
    }

    /// What the fault server ran into that is no part of its scenario would make every verdict worthless.
    pub(crate) fn check_server(&self) -> anyhow::Result<()> {
        match self.trouble().first() {
            Some(trouble) => bail!("the fault server had trouble of its own: {trouble}"),
            None => Ok(()),
        }
    }

    fn trouble(&self) -> Vec<Trouble> {
        self.fault.as_ref().map(Fault::trouble).unwrap_or_default()
    }

    fn complaints(&self) -> String {
        self.trouble().iter().map(|trouble| format!("; {trouble}")).collect()
    }

    /// Makes the call, and those that its redirects lead to, all within the limit of the whole call.
    pub(crate) async fn call(&self, parent: &Context, output: &Output) -> anyhow::Result<Called> {
        let context = match self.plan.limits.total.clone() {
            Some(total) => parent.child(total),
            None => parent.branch(),
        };
        let _beside = self.misbehave(&context).await;
        let (mut message, mut redirects) = (self.plan.message.clone(), Vec::new());
        loop {
            let answer = self.exchange(&context, &message, output).await?;
            let Some((status, next)) = self.plan.follow.then(|| answer.redirect(&message.url)).flatten() else {
                return Ok(Called { message, answer, redirects, not_followed: None });
            };
            let next = match next {
                Ok(next) if redirects.len() < REDIRECTS_MAX => next,
                too_many_or_unusable => {
                    let not_followed =
                        Some(too_many_or_unusable.map_or_else(NotFollowed::Unusable, NotFollowed::TooMany));
                    return Ok(Called { message, answer, redirects, not_followed });
                }
            };
            let following = message.redirected(status, next);
            redirects.push(Redirect { url: message.url, status, report: answer.report });
            message = following;
        }
    }

    /// What the caller does to its own call. The tasks end with what is returned.
    async fn misbehave(&self, context: &Context) -> JoinSet<()> {
        let mut beside = JoinSet::new();
        match self.plan.caller {
            Caller::BlocksExecutor { after, blocked_for } => drop(beside.spawn(async move {
                sleep(after).await;
                #[expect(clippy::disallowed_methods, reason = "the blocked thread is the fault")]
                thread::sleep(blocked_for);
            })),
            Caller::Cancels { after } => {
                let context = context.clone();
                beside.spawn(async move {
                    sleep(after).await;
                    context.cancel("the lab's caller wants no answer any more");
                });
            }
            Caller::PastDeadline => {
                while let Some(left) = context.remaining().filter(|left| !left.is_zero() && !context.is_cancelled()) {
                    tokio::select! {
                        _ = context.cancelled() => {}
                        () = sleep(left) => {}
                    }
                }
            }
            _ => {}
        }
        beside
    }

    /// One request and its response.
    async fn exchange(&self, context: &Context, message: &Message, output: &Output) -> anyhow::Result<Answer> {
        // The future of a call is large, and this one lies inside many others.
        let response = match Box::pin(self.client.call(context, message.request()?)).await {
            Ok(response) => response,
            Err(error) => {
                return Ok(Answer { report: error.report().clone(), head: None, body_bytes: 0, unwritten: None });
            }
        };
        let (head, mut body) = response.into_parts();
        let log = head.extensions.get::<CallLog>().cloned().context("the response has no log of its call")?;
        let mut answer = Answer { report: log.report(), head: Some(head), body_bytes: 0, unwritten: None };
        let leads_on = self.plan.follow && answer.redirect(&message.url).is_some_and(|(_, next)| next.is_ok());
        let mut sink = Sink::new(if leads_on { &Output::Counted } else { output })?;
        while let Some(frame) = body.frame().await {
            match frame.map(|frame| frame.into_data().unwrap_or_default()) {
                Ok(data) => {
                    answer.body_bytes += data.len() as u64;
                    if let Err(error) = sink.take(context, data).await {
                        answer.unwritten = Some(error);
                        // A call that is over says so itself when it is asked for the next piece.
                        if !is_over(context) {
                            break;
                        }
                    }
                }
                Err(error) => {
                    answer.report = error.report().clone();
                    break;
                }
            }
            if let Caller::SlowReader { every, .. } = self.plan.caller {
                sleep(every).await;
            }
        }
        if answer.report.stage.is_none() {
            answer.report = log.report();
        }
        if let Err(error) = sink.finish(context).await {
            answer.unwritten = Some(error);
        }
        Ok(answer)
    }
}

/// Whether nothing more can be done in this context.
fn is_over(context: &Context) -> bool {
    context.is_cancelled() || context.remaining().is_some_and(|left| left.is_zero())
}

impl Answer {
    /// Where the response says that its caller should go instead, or why that cannot be read.
    fn redirect(&self, from: &Url) -> Option<(StatusCode, Result<Url, String>)> {
        let head = self.head.as_ref().filter(|_| self.report.stage.is_none())?;
        if !matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = String::from_utf8_lossy(head.headers.get(LOCATION)?.as_bytes());
        Some((head.status, next_url(from, &location)))
    }
}

/// What a Location field leads to.
fn next_url(from: &Url, location: &str) -> Result<Url, String> {
    let mut next = from.join(location).map_err(|error| format!("{location:?} is no URL: {error}"))?;
    if !matches!(next.scheme(), "http" | "https") {
        return Err(format!("{location:?} has a scheme that overdue does not speak"));
    }
    // A server has no name and password to give us. Neither fails for a URL with a host.
    _ = (next.set_username(""), next.set_password(None));
    uri(&next).map_err(|error| format!("{error:#}"))?;
    Ok(next)
}

/// This process has no file descriptor left, until this is dropped.
#[derive(Debug)]
struct Starved {
    before: Rlimit,
}

impl Starved {
    fn begin() -> io::Result<Self> {
        // The lowest free number: every lower one is taken.
        let lowest_free = rustix::io::dup(io::stderr())?.as_raw_fd();
        let before = getrlimit(Resource::Nofile);
        let current = u64::try_from(lowest_free).ok();
        setrlimit(Resource::Nofile, Rlimit { current, maximum: before.maximum })?;
        Ok(Self { before })
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        // Raising the soft limit to what it was is always allowed.
        _ = setrlimit(Resource::Nofile, self.before);
    }
}
