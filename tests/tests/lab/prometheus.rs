//! A real Prometheus, on the instance's loopback: metrics, alert rules and the dashboard's queries.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tests::process::{self, Background, wait_until};
use tests::topology::{Shape, VENDOR};
use vpnat_agent::metrics::catalog;

use crate::dashboard::{Panel, draw, legend};
use crate::setting::Setting;

fn packaging(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging")).join(file)
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    let mut check = process::command("promtool", None);
    check.args(["check", "rules"]).arg(packaging("prometheus/vpnat-alerts.yml"));
    process::checked(check);
    let mut cases = process::command("promtool", None);
    cases.args(["test", "rules"]).arg(packaging("prometheus/vpnat-alerts.test.yml"));
    process::checked(cases);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        lab.pods[0].http_get(40000, VENDOR, "/").expect("an answer");
        let text = agent.metrics();
        let mut promtool = process::command("promtool", None);
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut promtool = promtool.spawn().expect("promtool");
        promtool.stdin.take().expect("its input").write_all(text.as_bytes()).expect("metrics");
        let output = promtool.wait_with_output().expect("promtool's end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");

        // What is exported is what the catalog has, with its kind.
        let exported: BTreeSet<String> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
        let known: BTreeSet<String> = catalog::ALL
            .iter()
            .map(|metric| format!("{} {}", metric.full_name(), format!("{:?}", metric.kind).to_lowercase()))
            .collect();
        assert_eq!(exported, known);

        // NAT gateway's figures.
        let value = |name, labels: &[&str]| tests::agent::sum_of(&text, name, labels);
        assert_eq!(value("vpnat_flows_attempted_total", &["vendor=\"vendor-a\""]), 2.0);
        assert_eq!(value("vpnat_flows_opened_total", &["protocol=\"udp\""]), 1.0);
        assert_eq!(value("vpnat_flows_established_total", &[]), 1.0);
        assert_eq!(value("vpnat_port_allocation_errors_total", &[]), 0.0);
        assert_eq!(value("vpnat_ports_configured", &["vendor=\"vendor-a\""]), 64512.0);
        assert!(value("vpnat_agent_resident_memory_bytes", &[]) > 1e6);
    });
}

struct Prometheus<'a> {
    lab: &'a tests::topology::Topology<'a>,
    _process: Background,
}

impl<'a> Prometheus<'a> {
    fn start(lab: &'a tests::topology::Topology<'a>) -> Self {
        let folder = lab.site().sandbox.dir().join("prometheus");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text =
            std::fs::read_to_string(packaging("prometheus/prometheus.example.yml")).expect("the example");
        // A quicker pace, for a short scenario.
        let text = text.replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s");
        std::fs::write(folder.join("prometheus.yml"), text).expect("a configuration");
        std::fs::copy(packaging("prometheus/vpnat-alerts.yml"), folder.join("vpnat-alerts.yml"))
            .expect("rules");
        let mut command = lab.site().nat.command("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .current_dir(&folder);
        Self { lab, _process: Background::start("prometheus", command) }
    }

    fn get(&self, path: &str, query: &str) -> Value {
        let mut curl = self.lab.site().nat.command("curl");
        curl.args(["-s", "-G", "--max-time", "10", "--data-urlencode"]).arg(format!("query={query}"));
        curl.arg(format!("http://127.0.0.1:9090/api/v1/{path}"));
        let output = process::output(curl);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The values of the queries of a panel from `from` to `to`, seconds.
    fn series(&self, panel: &Value, from: f64, to: f64) -> Vec<(String, Vec<(f64, f64)>)> {
        let mut series = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let range = format!("query_range?start={from}&end={to}&step=1");
            let answer = self.get(&range, &filled_in(target["expr"].as_str().unwrap_or_default()));
            for found in answer["data"]["result"].as_array().into_iter().flatten() {
                let name = legend(target["legendFormat"].as_str().unwrap_or_default(), &found["metric"]);
                let point = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
                let points = found["values"].as_array().into_iter().flatten().filter_map(point).collect();
                series.push((name, points));
            }
        }
        series
    }

    /// Draws the dashboard into `docs`: run the scenario with VPNAT_DOCS=1.
    fn draw(&self, from: f64, to: f64) {
        let panels: Vec<Panel> = panels()
            .iter()
            .map(|panel| Panel {
                title: panel["title"].as_str().unwrap_or_default().into(),
                stat: panel["type"] == "stat",
                unit: panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default().into(),
                place: ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_f64().unwrap_or(0.0)),
                series: self.series(panel, from, to),
            })
            .collect();
        let path = packaging("../docs/dashboard.svg");
        std::fs::write(path, draw(&panels, from, to)).expect("docs/dashboard.svg");
    }

    fn results(&self, query: &str) -> Vec<Value> {
        let answer = self.get("query", query);
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// A query with the dashboard's variables as Grafana would fill them in.
fn filled_in(query: &str) -> String {
    query.replace("$__rate_interval", "10s").replace("$instance", ".*").replace("$vendor", ".*")
}

/// The dashboard's panels.
fn panels() -> Vec<Value> {
    let text = std::fs::read_to_string(packaging("grafana/vpnat.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    dashboard["panels"].as_array().cloned().unwrap_or_default()
}

/// The dashboard's queries, by panel.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = filled_in(target["expr"].as_str().expect("a query"));
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].as_str().unwrap_or_default().to_owned(), query));
        }
    }
    queries
}

#[test]
fn a_real_prometheus_scrapes_it_and_draws_the_dashboard() {
    Setting::tc(Shape::TwoArm).run(|lab, agent| {
        lab.pods[0].udp_exchange(40000, VENDOR, b"question").expect("an answer");
        let prometheus = Prometheus::start(lab);
        wait_until("a scrape", Duration::from_secs(60), || {
            let up = prometheus.get("query", "up{job=\"vpnat\"} == 1");
            up["data"]["result"].as_array().is_some_and(|found| !found.is_empty())
        });
        // The sweep's figures come once in half a minute; the rest at once.
        wait_until("the sweep's figures", Duration::from_secs(60), || {
            for port in 40000..40010 {
                lab.pods[1].udp_exchange(port, VENDOR, b"question").expect("an answer");
            }
            std::thread::sleep(Duration::from_millis(500));
            !prometheus.results("sum(vpnat_flows) > 5").is_empty()
        });
        // What only shows when something is wrong, or on a cloud's own machines.
        let may_be_empty = ["Drops by reason", "Cloud allowances exceeded"];
        for (title, query) in queries() {
            let results = prometheus.results(&query);
            assert!(
                !results.is_empty() || may_be_empty.contains(&title.as_str()),
                "{title}: `{query}` finds nothing"
            );
        }
        if std::env::var_os("VPNAT_DOCS").is_some() {
            let to = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
            prometheus.draw(to - 30.0, to);
        }
        let rules = prometheus.get("rules", "");
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        assert_eq!(rules.len(), 12, "{rules:?}");
        for rule in &rules {
            assert_eq!((&rule["health"], &rule["state"]), (&"ok".into(), &"inactive".into()), "{rule}");
        }
        // The agent goes, and the alert comes: pending, since it waits for two minutes.
        agent.kill9();
        wait_until("an alert", Duration::from_secs(60), || {
            !prometheus.results("ALERTS{alertname=\"VpnatAgentDown\"}").is_empty()
        });
    });
}
