use std::{fs::File, path::Path, process::Stdio};

use serde_json::Value;
use testkit::{PATIENCE, node_script, python_script};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// A program for Node or Python of `testkit` that prints JSON lines and follows JSON lines. Killed when it is dropped.
pub struct Script {
    process: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    told: Vec<Value>,
}

impl Script {
    /// Starts one for Node with this argument.
    ///
    /// # Panics
    /// When Node is not installed.
    pub fn start(name: &str, argument: &Value) -> Self {
        Self::run("node", &node_script(name), argument)
    }

    /// Starts one for Python with this argument.
    ///
    /// # Panics
    /// When Python is not installed.
    pub fn python(name: &str, argument: &Value) -> Self {
        Self::run("python3", &python_script(name), argument)
    }

    fn run(language: &str, path: &Path, argument: &Value) -> Self {
        let mut process = Command::new(language)
            .arg(path)
            .arg(argument.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr_of_its_own())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{language} is needed (`make test` installs it): {error}"));
        let orders = process.stdin.take().expect("a pipe to it");
        let lines = BufReader::new(process.stdout.take().expect("a pipe from it")).lines();
        Self { process, orders, lines, told: Vec::new() }
    }

    /// Tells it something.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn order(&mut self, order: &Value) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("a script that runs");
    }

    /// Reads until a line that is wanted; that line. Those that were read before are not looked at again.
    ///
    /// # Panics
    /// When it ends or is silent before.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.line().await;
            let line = line.unwrap_or_else(|| panic!("it ended before: {what}: {:#?}", self.told));
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Waits for its end; all that it has printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn end(mut self) -> Vec<Value> {
        while self.line().await.is_some() {}
        let status = self.process.wait().await.expect("a script that ends");
        assert!(status.success(), "{status}: {:#?}", self.told);
        self.told
    }

    async fn line(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("nothing was printed after {:#?}", self.told));
        let line = serde_json::from_str::<Value>(&line.expect("a pipe that can be read")?).expect("JSON");
        self.told.push(line.clone());
        Some(line)
    }
}

/// Our standard error, opened once more. Node makes what it inherits non-blocking for everybody who shares it, and then the
/// tests' own output breaks off where the pipe is full.
fn stderr_of_its_own() -> Stdio {
    File::options().append(true).open("/dev/stderr").map_or_else(|_| Stdio::null(), Stdio::from)
}
