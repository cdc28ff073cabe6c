//! What a delivery costs elsewhere: the bare `write()` of the same bytes, Node's `ws`, npm's `socket.io`. Each is a process
//! of its own, so that its processor time is its own, and is told what to send by a line of its input.

use std::{
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    thread,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A server that sends what it is told.
pub struct Rival {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Rival {
    /// The bare `write()`: this program, in another role.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn bare(followers: usize) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", &followers.to_string()]);
        Self::start(command).await
    }

    /// A script for Node, from a folder in which its packages are installed.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn node(folder: &Path, script: &str) -> io::Result<Self> {
        let mut command = Command::new("node");
        command.arg("--expose-gc").arg(folder.join(script));
        Self::start(command).await
    }

    async fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let (input, output) =
            process.stdin.take().zip(process.stdout.take()).ok_or(io::ErrorKind::BrokenPipe)?;
        let mut output = BufReader::new(output).lines();
        let port = output.next_line().await?.and_then(|line| line.trim().parse().ok());
        let port: u16 = port.ok_or_else(|| io::Error::other("it did not say where it listens"))?;
        Ok(Self { process, input, output, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    /// Its process.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Sends a line to every follower.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn send(&mut self, line: &str) -> io::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        self.output.next_line().await?.map(drop).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

/// The bare one's own part: takes so many followers, then writes each line of its input to all of them.
///
/// # Errors
/// When a follower is gone.
pub fn serve_bare(followers: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let accepting = thread::spawn(move || {
        let streams = (0..followers).map(|_| {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        streams.collect::<io::Result<Vec<_>>>()
    });
    let mut streams = accepting.join().map_err(|_| io::Error::other("accepting"))??;
    for line in io::stdin().lock().lines() {
        let line = line?;
        for stream in &mut streams {
            stream.write_all(line.as_bytes())?;
        }
        println!("sent");
        io::stdout().flush()?;
    }
    Ok(())
}
