//! Deadlines in a tree: a child only ever shrinks, the error names the one that fired, and cancelling has a reason.
//!
//! cargo run -p overdue --example nested_deadlines

use std::{future::pending, time::Duration};

use overdue::{Context, Limit, Stage};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::main]
async fn main() {
    let page = Context::root().child(Limit::total(ms(300)));

    // It asks for five seconds and gets what is left of the page.
    let query = page.child(Limit::total(Duration::from_secs(5)));
    if let Some(deadline) = query.deadline() {
        println!("asked for:  {}", deadline.asked());
        println!("ends with:  {}", deadline.limit());
    }

    // It asks for less, and keeps that.
    let lookup = page.child(Limit::stage(Stage::Named("lookup"), ms(50)));
    if let Err(error) = lookup.run(Stage::Named("lookup"), pending::<()>()).await {
        println!("\nlookup:     {error}");
    }

    // The page's own deadline is still to come, and ends the query.
    if let Err(error) = query.run(Stage::Named("query"), pending::<()>()).await {
        println!("query:      {error}");
    }

    // Everything below a context that is cancelled ends at once, and can say why.
    let upload = Context::root();
    let part = upload.branch();
    upload.cancel("the user closed the window");
    if let Err(error) = part.run(Stage::Named("part"), pending::<()>()).await {
        println!("part:       {error}");
    }

    // What must outlive its caller says so, and takes a limit of its own.
    let audit = upload.detached().child(Limit::total(ms(100)));
    match audit.run(Stage::Named("audit"), async { "written" }).await {
        Ok(done) => println!("audit:      {done}, although its caller was cancelled"),
        Err(error) => println!("audit:      {error}"),
    }
}
