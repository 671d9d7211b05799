//! A stand-in for the APIs of a cloud, on loopback in a namespace: EC2 and a Kubernetes cluster as far as the documentation's
//! commands ask them anything. It changes nothing, answers as if it had, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::patience::patient;
use crate::sockets::readable;

/// The one object of the cluster.
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET, POST, PATCH.
    pub method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// As it came.
    pub body: String,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// The APIs, until dropped.
pub struct Cloud {
    at: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Cloud {
    /// Starts on a free port of the namespace's loopback.
    pub fn start(namespace: &Namespace) -> Self {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let listener = namespace.enter(|| TcpListener::bind(any)).expect("a port on loopback");
        let at = listener.local_addr().expect("the port");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { at, shared, thread: Some(thread) }
    }

    /// Where it is, for a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// What was asked since the last call, in order, without questions that change nothing.
    pub fn asked(&self) -> Vec<Request> {
        let mut asked = self.shared.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        asked.drain(..).filter(|request| request.method != "GET").collect()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        if !readable(listener, Duration::from_millis(50)) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let shared = Arc::clone(shared);
        // A client may open a second connection before it has used the first.
        std::thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(patient(Duration::from_secs(30))));
            let _ = serve(&stream, &shared);
        });
    }
}

/// One request for each connection.
fn serve(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let request = Request { method, path, body: String::from_utf8_lossy(&body).into_owned() };
    let (status, kind, text) = answer(&request);
    shared.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(request);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn answer(request: &Request) -> (&'static str, &'static str, String) {
    let action = request.body.split('&').find_map(|pair| pair.strip_prefix("Action="));
    if let ("POST", "/", Some(action)) = (request.method.as_str(), request.path.as_str(), action) {
        let text = format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
             <requestId>00000000-0000-0000-0000-000000000000</requestId><return>true</return></{action}Response>"
        );
        return ("200 OK", "text/xml;charset=UTF-8", text);
    }
    match cluster(request) {
        Some(object) => ("200 OK", "application/json", object.to_string()),
        None => {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 });
            ("404 Not Found", "application/json", status.to_string())
        }
    }
}

/// What `kubectl` wants to know of a cluster before it changes a DaemonSet, and the DaemonSet.
fn cluster(request: &Request) -> Option<Value> {
    let version = json!({ "groupVersion": "apps/v1", "version": "v1" });
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/version") => Some(json!({ "major": "1", "minor": "32", "gitVersion": "v1.32.0" })),
        ("GET", "/api") => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ("GET", "/api/v1") => Some(
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [] }),
        ),
        ("GET", "/apis") => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [{ "name": "apps", "versions": [version], "preferredVersion": version }],
        })),
        ("GET", "/apis/apps/v1") => Some(json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": "apps/v1",
            "resources": [{
                "name": "daemonsets",
                "singularName": "daemonset",
                "namespaced": true,
                "kind": "DaemonSet",
                "verbs": ["get", "list", "patch", "update"],
                "shortNames": ["ds"],
            }],
        })),
        ("GET" | "PATCH", DAEMON_SET) => Some(daemon_set()),
        _ => None,
    }
}

/// The VPC CNI's, as far as the commands touch it.
fn daemon_set() -> Value {
    let labels = json!({ "k8s-app": "aws-node" });
    json!({
        "kind": "DaemonSet",
        "apiVersion": "apps/v1",
        "metadata": { "name": "aws-node", "namespace": "kube-system", "resourceVersion": "1" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{
                    "name": "aws-node",
                    "image": "amazon-k8s-cni",
                    "env": [{ "name": "AWS_VPC_K8S_CNI_EXTERNALSNAT", "value": "false" }],
                }] },
            },
        },
    })
}
