use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use settings::Secret;

use crate::{ScratchFolder, eventually, free_port};

/// The password of its role `parley`.
const PASSWORD: &str = "test-only";

/// A Postgres server of one's own, which speaks TLS. Nobody enters without the password and TLS.
pub struct PostgresServer {
    port: u16,
    process: Child,
    _folder: ScratchFolder,
}

impl PostgresServer {
    /// Starts it with this certificate and key, PEM files, and waits until it answers.
    ///
    /// # Panics
    /// When Postgres is not installed, or does not start.
    pub async fn start(certificate: &Path, key: &Path) -> Self {
        let folder = ScratchFolder::new("postgres");
        let user = user();
        let data = folder.path().join("data");
        let password = give(&folder.path().join("password"), PASSWORD.as_bytes(), user);
        fs::create_dir(&data).expect("a folder in a scratch folder");
        if let Some(user) = user {
            chown(&data, Some(user), None).expect("the folder to be given to Postgres");
        }
        let made = run_as(&programs().join("initdb"), user)
            .args(["--username", "parley", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"])
            .args(["--auth", "scram-sha-256"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("--pgdata")
            .arg(&data)
            .output()
            .expect("initdb to run");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        give(&data.join("pg_hba.conf"), b"hostssl all all 127.0.0.1/32 scram-sha-256\n", user);
        give(&data.join("server.crt"), &fs::read(certificate).expect("the certificate"), user);
        give(&data.join("server.key"), &fs::read(key).expect("the key"), user);
        let port = free_port();
        let process = run_as(&programs().join("postgres"), user)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "ssl=on"])
            .args(["-c", "fsync=off", "-p", &port.to_string()])
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres to run");
        let server = Self { port, process, _folder: folder };
        eventually("a private Postgres lets people in", async || {
            let mut asked = Command::new(programs().join("pg_isready"));
            asked.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            asked.status().expect("pg_isready to run").success()
        })
        .await;
        server
    }

    /// Its database under this host name, with these parameters.
    pub fn url(&self, host: &str, parameters: &str) -> Secret {
        format!("postgres://parley:{PASSWORD}@{host}:{}/postgres?{parameters}", self.port).into()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // The fast way: it ends its connections and goes.
        let _asked = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ended = self.process.wait();
    }
}

/// Whom Postgres runs as: it refuses to be root.
fn user() -> Option<u32> {
    let id = |arguments: &[&str]| -> u32 {
        let said = Command::new("id").args(arguments).output().expect("id to run");
        String::from_utf8_lossy(&said.stdout)
            .trim()
            .parse()
            .expect("a user postgres, as root is not good enough")
    };
    (id(&["-u"]) == 0).then(|| id(&["-u", "postgres"]))
}

fn run_as(program: &Path, user: Option<u32>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/").env("LC_ALL", "C.UTF-8");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

/// A file that only Postgres may read.
fn give(path: &Path, content: &[u8], user: Option<u32>) -> PathBuf {
    fs::write(path, content).expect("a file in a scratch folder");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions of a file of ours");
    if let Some(user) = user {
        chown(path, Some(user), None).expect("the file to be given to Postgres");
    }
    path.to_owned()
}

/// The folder of the newest version's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Postgres to be installed");
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(version);
    newest.expect("a version of Postgres").join("bin")
}
