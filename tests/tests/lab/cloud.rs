//! The commands of docs/aws.md, as they stand there, by the real programs: they know their own options, and a stand-in for the
//! APIs sees what arrives.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};
use tests::cloud::{Cloud, Request};
use tests::netns::Namespace;
use tests::pages::{PAGES, commands};
use tests::process;
use tests::sandbox::Sandbox;

/// The page's names in capitals, and somebody's.
const NAMES: &[(&str, &str)] = &[
    ("ENI", "eni-0a1b2c3d4e5f60718"),
    ("INSTANCE", "i-0123456789abcdef0"),
    ("PODS_TABLE", "rtb-0aaaaaaaaaaaaaaaa"),
    ("INSTANCE_TABLE", "rtb-0bbbbbbbbbbbbbbbb"),
    ("VGW", "vgw-0c0c0c0c0c0c0c0c0"),
];

/// What the page's words mean to EC2, line by line: the action and all of its parameters.
const MEANT: &[(&str, &[(&str, &str)])] = &[
    (
        "ModifyNetworkInterfaceAttribute",
        &[("NetworkInterfaceId", "eni-0a1b2c3d4e5f60718"), ("SourceDestCheck.Value", "false")],
    ),
    (
        "AssignPrivateIpAddresses",
        &[("NetworkInterfaceId", "eni-0a1b2c3d4e5f60718"), ("PrivateIpAddress.1", "10.0.1.10")],
    ),
    (
        "ModifyInstanceMetadataOptions",
        &[
            ("InstanceId", "i-0123456789abcdef0"),
            ("HttpTokens", "required"),
            ("HttpPutResponseHopLimit", "1"),
        ],
    ),
    (
        "CreateRoute",
        &[
            ("RouteTableId", "rtb-0aaaaaaaaaaaaaaaa"),
            ("DestinationCidrBlock", "192.0.2.0/24"),
            ("NetworkInterfaceId", "eni-0a1b2c3d4e5f60718"),
        ],
    ),
    (
        "CreateRoute",
        &[
            ("RouteTableId", "rtb-0bbbbbbbbbbbbbbbb"),
            ("DestinationCidrBlock", "192.0.2.0/24"),
            ("GatewayId", "vgw-0c0c0c0c0c0c0c0c0"),
        ],
    ),
];

/// A network with the APIs and nothing else in it, and an operator's folder.
struct Desk {
    cloud: Cloud,
    network: Namespace,
    home: PathBuf,
    _sandbox: Sandbox,
}

impl Desk {
    fn new() -> Self {
        let sandbox = Sandbox::enter();
        let network = Namespace::new("cloud");
        let cloud = Cloud::start(&network);
        let home = sandbox.dir().join("home");
        std::fs::create_dir_all(&home).expect("a folder");
        // JSON is YAML.
        let cluster = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "lab", "cluster": { "server": cloud.url() } }],
            "users": [{ "name": "lab", "user": { "token": "none" } }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
            "current-context": "lab",
        });
        std::fs::write(home.join("kubeconfig"), cluster.to_string()).expect("a kubeconfig");
        Self { cloud, network, home, _sandbox: sandbox }
    }

    /// Runs a line of the page, with nothing of the machine's own: no account, no cluster, no proxy.
    fn run(&self, line: &str) -> Output {
        let mut words: Vec<&str> = line.split_whitespace().map(named).collect();
        let url = self.cloud.url();
        if words[0] == "aws" {
            words.extend(["--endpoint-url", &url]);
        }
        let mut command = self.network.command(words[0]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.args(&words[1..]).env_clear().env("PATH", path).env("HOME", &self.home);
        command.env("KUBECONFIG", self.home.join("kubeconfig")).env("LC_ALL", "C.UTF-8");
        command.envs([
            ("AWS_ACCESS_KEY_ID", "made-up"),
            ("AWS_SECRET_ACCESS_KEY", "made-up"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_MAX_ATTEMPTS", "1"),
            ("AWS_PAGER", ""),
        ]);
        process::output(command)
    }
}

fn named(word: &str) -> &str {
    let known = NAMES.iter().find(|(name, _)| *name == word);
    let capitals = word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    assert!(known.is_some() || !capitals, "what is {word}?");
    known.map_or(word, |(_, id)| id)
}

fn lines(program: &str) -> Vec<String> {
    let all = PAGES.iter().flat_map(|(page, text)| commands(page, text));
    all.filter(|line| line.starts_with(&format!("{program} "))).collect()
}

fn done(line: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {}\n{said}", String::from_utf8_lossy(&output.stdout));
}

/// The action of a request to EC2, and its parameters.
fn query(request: &Request) -> (String, BTreeMap<String, String>) {
    let pairs = request.body.split('&').filter_map(|pair| pair.split_once('='));
    let mut pairs: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_owned(), value.replace("%2F", "/"))).collect();
    pairs.remove("Version");
    (pairs.remove("Action").expect("an action"), pairs)
}

#[test]
fn what_the_pages_ask_of_aws() {
    let desk = Desk::new();
    let lines = lines("aws");
    assert_eq!(lines.len(), MEANT.len(), "{lines:#?}");
    for (line, (action, parameters)) in lines.iter().zip(MEANT) {
        done(line, &desk.run(line));
        let [request] = &desk.cloud.asked()[..] else { panic!("`{line}` asks for one thing") };
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        assert_eq!(query(request), (action.to_string(), parameters.collect()), "`{line}`");
    }
}

#[test]
fn what_the_pages_ask_of_a_cluster() {
    let desk = Desk::new();
    let lines = lines("kubectl");
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    done(line, &desk.run(line));
    let [request] = &desk.cloud.asked()[..] else { panic!("`{line}` changes one thing") };
    let object = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node";
    assert_eq!((&*request.method, &*request.path), ("PATCH", object));
    let patch: Value = serde_json::from_str(&request.body).expect("JSON");
    let containers = &patch["spec"]["template"]["spec"]["containers"];
    let added = json!([{ "name": "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "value": "192.0.2.0/24" }]);
    assert_eq!((&containers[0]["name"], &containers[0]["env"]), (&json!("aws-node"), &added), "{patch}");
    assert_eq!(containers.as_array().map(Vec::len), Some(1), "{patch}");
}

/// The programs judge the words before anything is sent.
#[test]
fn a_mistake_on_the_page_is_seen() {
    let desk = Desk::new();
    let (route, env) = (&lines("aws")[3], &lines("kubectl")[0]);
    for (line, from, to) in [
        (route, "--destination-cidr-block", "--destination-cidr-blok"),
        (route, "--route-table-id PODS_TABLE", ""),
        (route, "create-route", "create-rout"),
        (env, "set env", "set envs"),
        (env, "-n", "--namespac"),
        (env, "daemonset/", "daemonsett/"),
    ] {
        assert!(line.contains(from), "{line}");
        let line = line.replacen(from, to, 1);
        let output = desk.run(&line);
        assert!(!output.status.success(), "`{line}` is taken");
        assert_eq!(desk.cloud.asked(), [], "`{line}`");
    }
}
