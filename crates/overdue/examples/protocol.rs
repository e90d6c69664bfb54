//! A protocol of one's own: lines over a stream, each answer under a deadline, each silence under a limit.
//!
//! cargo run -p overdue --example protocol

use std::{io, time::Duration};

use overdue::{Context, Error, Limit, LimitName, stream::Stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// Asks a question in one line, and takes one line for an answer.
struct Asker(BufReader<Stream>);

impl Asker {
    async fn connect(context: &Context, target: &str) -> Result<Self, Error> {
        let stream = Stream::connect(context, target).await?;
        // Holds for every read, whatever the deadline: a peer that stops in the middle of a line is not waited for.
        stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, Duration::from_millis(150))));
        Ok(Self(BufReader::new(stream)))
    }

    async fn ask(&mut self, question: &str, within: Duration) -> io::Result<String> {
        self.0.get_ref().set_deadline(within);
        self.0.write_all(format!("{question}\n").as_bytes()).await?;
        let mut answer = String::new();
        // At most so much: a peer may send without end, too.
        (&mut self.0).take(1024).read_line(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = serve().await?;
    for question in ["quick", "slow", "stuck"] {
        let mut asker = Asker::connect(&Context::root(), &target).await?;
        match asker.ask(question, Duration::from_millis(400)).await {
            Ok(answer) => println!("{question}: {answer}"),
            // An io::Error like any other, with all of the facts inside.
            Err(err) => match Error::find(&err) {
                Some(error) => println!("{question}: {:?}: {error}", err.kind()),
                None => println!("{question}: {err}"),
            },
        }
    }
    Ok(())
}

/// Answers at once, or a letter at a time, or half-way.
async fn serve() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut question = String::new();
                stream.read_line(&mut question).await?;
                match question.trim_end() {
                    "quick" => stream.write_all(b"here you are\n").await?,
                    "slow" => loop {
                        stream.write_all(b".").await?;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    },
                    _ => {
                        stream.write_all(b"well, ").await?;
                        std::future::pending::<()>().await;
                    }
                }
                io::Result::Ok(())
            });
        }
    });
    Ok(target)
}
