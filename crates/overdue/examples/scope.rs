//! Tasks that cannot outlive their request unnoticed: who was left at the deadline, and where it was spawned.
//!
//! cargo run -p overdue --example scope

use std::time::Duration;

use overdue::{Context, Limit, Stage, lost_deadlines};
use tokio::time::sleep;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::main]
async fn main() {
    let request = Context::root().child(Limit::total(ms(200)));
    let scope = request.scope();

    let sum = scope.spawn(async { 20 + 22 });
    scope.spawn_named("heeds the deadline", async {
        // The current context is that of the scope, and nobody had to hand it down.
        if let Some(context) = Context::current()
            && let Err(error) = context.run(Stage::Named("report"), sleep(Duration::from_secs(9))).await
        {
            println!("{error}");
        }
    });
    scope.spawn_named("does not", sleep(Duration::from_secs(9)));
    scope.spawn_named("forgets it", async { Context::root().run(Stage::Handle, sleep(ms(1))).await });

    match sum.await {
        Ok(sum) => println!("sum: {sum}"),
        Err(error) => println!("sum: {error}"),
    }
    // Waits until the deadline, and then says what is left.
    if let Err(left) = scope.join().await {
        println!("\nat the deadline: {left}");
    }
    // Cancels what is left, waits a while, aborts the rest.
    if let Err(aborted) = scope.close(Limit::total(ms(50))).await {
        println!("\nat the end: {aborted}");
    }
    for lost in lost_deadlines() {
        println!("\n{}:{} opened a root context, and lost {}", lost.at.file(), lost.at.line(), lost.limit);
    }
}
