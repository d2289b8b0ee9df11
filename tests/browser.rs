//! Opens the report of a real run, and the page of a real daemon, in a real browser. Needs Chromium; without one it says
//! so and checks nothing, except in CI, where it must be there.

#![cfg(unix)]

mod bench;
mod chromium;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use bench::{Bench, JOB};
use chromium::{Page, chromium};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Colours of the marks of a trial that is chosen and of the front, in the light and in the dark.
const LIGHT: [[u8; 3]; 2] = [[0xc2, 0x4e, 0x00], [0x00, 0x72, 0xb2]];
const DARK: [[u8; 3]; 2] = [[0xff, 0x9d, 0x5c], [0x58, 0xb4, 0xf0]];

/// Opens a file for a while of its own time, and says what the browser said.
fn open(browser: &Path, file: &Path, args: &[&str]) -> Output {
    let profile = TempDir::new().unwrap();
    let output = chromium::command(browser, profile.path())
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .args(args)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Errors of scripts, and what the content security policy refused.
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(output.status.success() && console.is_empty(), "{console:?}\n{said}");
    output
}

fn run(folder: &Path) -> PathBuf {
    let ran = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"))
        .arg("run")
        .arg(JOB)
        .args(["--set", "data.split.search=300", "--set", "data.split.calibrate=32", "--set", "sensitivity.samples=8"])
        .args(["--set", "measure.latency={runs: 5, warmup: 1}", "--threads", "2"])
        .current_dir(folder)
        .env_remove("QTUNED_DB")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    folder.join("qtuned-out/fashion-mnist/report.html")
}

/// Pixels of each colour in a screenshot.
fn pixels<const N: usize>(picture: &Path, colours: [[u8; 3]; N]) -> [usize; N] {
    let picture = image::open(picture).unwrap().into_rgb8();
    colours.map(|colour| picture.pixels().filter(|pixel| pixel.0 == colour).count())
}

#[test]
fn the_report_of_a_run_is_drawn() {
    let Some(browser) = chromium() else { return };
    let folder = TempDir::new().unwrap();
    let report = run(folder.path());
    let dom = String::from_utf8(open(&browser, &report, &["--dump-dom"]).stdout).unwrap();
    assert!(dom.contains("<h1>fashion-mnist</h1>") && dom.contains("succeeded"), "{dom}");
    let trials = fs::read_to_string(report.with_file_name("trials.csv")).unwrap().lines().count() - 1;
    assert_eq!(dom.matches("<tr class=\"\" id=\"trial-").count() + 1, trials, "one row a trial, and the chosen one");
    assert_eq!(dom.matches("<tr class=\"chosen\" id=\"trial-").count(), 1);
    // Both charts have a size and say in words what they show.
    let canvas = regex::Regex::new("<canvas[^>]*>").unwrap();
    let charts: Vec<&str> = canvas.find_iter(&dom).map(|found| found.as_str()).collect();
    assert_eq!(charts.len(), 2);
    for chart in charts {
        assert!(
            chart.contains("aria-label=\"") && chart.contains("tabindex=\"0\"") && chart.contains(" width=\""),
            "{chart}"
        );
    }
    for (size, scheme, colours) in [("1200,2400", "1", LIGHT), ("1200,2400", "0", DARK), ("390,3600", "1", LIGHT)] {
        let picture = folder.path().join("page.png");
        let screenshot = format!("--screenshot={}", picture.display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        open(&browser, &report, &[&screenshot, &format!("--window-size={size}"), &scheme]);
        let found = pixels(&picture, colours);
        assert!(found.iter().all(|count| *count > 100), "{size}: {found:?} pixels of {colours:?}");
    }
}

/// The shipped job, with whole paths.
fn shipped() -> String {
    let folder = Path::new(JOB).parent().unwrap().parent().unwrap();
    fs::read_to_string(JOB).unwrap().replace("../", &format!("{}/", folder.display()))
}

/// Where pictures of the page are kept for people who want to look at them.
fn pictures(bench: &Bench) -> PathBuf {
    let folder = std::env::var_os("QTUNED_PICTURES").map_or_else(|| bench.path().join("pictures"), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    folder
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_job_is_submitted_on_the_page_watched_to_its_end_and_its_qconfig_saved() {
    let Some(browser) = chromium() else { return };
    let bench = Bench::new();
    fs::write(bench.path().join("tokens"), "write a-token-that-writes\n").unwrap();
    let (_serve, address) = bench.serve_http(&["--threads", "2", "--token-file", "tokens"]);
    let downloads = bench.path().join("downloads");
    fs::create_dir(&downloads).unwrap();
    let mut page = Page::new(&browser, &downloads);
    page.open(&format!("http://{address}/"));

    // Without a token nothing is shown, and a wrong one is not taken.
    let give = |token: &str| {
        format!("document.querySelector('#token').value = {token:?}; document.querySelector('form button').click()")
    };
    page.until("!!document.querySelector('#token')", 20 * SECOND);
    page.eval(&give("a-token-that-is-wrong"));
    page.until("document.querySelector('#token')?.value === ''", 20 * SECOND);
    page.eval(&give("a-token-that-writes"));
    page.until("document.body.innerText.includes('No jobs yet')", 20 * SECOND);
    // What was refused until now, the browser says too.
    assert!(page.errors.iter().all(|error| error.contains("401")), "{:?}", page.errors);
    page.errors.clear();

    let fill = |yaml: &str| {
        format!(
            "document.querySelector('.submission').open = true;
             document.querySelector('#job').value = {};
             document.querySelector('.submission button').click()",
            json!(yaml)
        )
    };
    // What is wrong is said as text, whatever it holds.
    let hostile = "<img src=x onerror=alert(1)>";
    page.eval(&fill(&shipped().replace("name: fashion-mnist", &format!("name: \"{hostile}\""))));
    let wrong = "document.querySelector('.submission .error').textContent";
    page.until(&format!("{wrong}.includes('line 3, name: ') && {wrong}.includes({hostile:?})"), 20 * SECOND);
    assert_eq!(page.eval("document.querySelector('main img')"), Value::Null);
    assert!(page.errors.iter().all(|error| error.contains("422")), "{:?}", page.errors);
    page.errors.clear();
    page.eval(&fill(&shipped()));
    page.until("location.hash === '#/jobs/1'", 60 * SECOND);

    // It is seen to run, and to end, without being loaded again.
    page.eval("window.seen = true");
    page.until("!!document.querySelector('.live progress')", 60 * SECOND);
    page.until("document.querySelectorAll('[id^=trial-]').length > 1", 120 * SECOND);
    assert_eq!(page.eval("document.querySelector('.badge').textContent"), "running");
    page.picture(1200, "light", &pictures(&bench).join("running.png"));
    page.until("document.querySelector('.badge').textContent === 'succeeded'", 180 * SECOND);
    assert_eq!(page.eval("window.seen"), true);
    page.until("!document.querySelector('.live progress')", 20 * SECOND);
    assert_eq!(page.eval("document.querySelector('h1').textContent"), "fashion-mnist");
    let job = bench.json(&["show", "1"]);
    let trials = bench.json(&["trials", "1"]);
    assert_eq!(page.eval("document.querySelectorAll('[id^=trial-]').length"), json!(trials.as_array().unwrap().len()));
    let chosen = job["chosen"].as_u64().unwrap();
    assert_eq!(page.eval("document.querySelector('tr.chosen').id"), json!(format!("trial-{chosen}")));

    // The chart of SQNR is sorted as it is asked for.
    let groups = bench.json(&["groups", "1"]);
    let mut ids: Vec<String> =
        groups.as_array().unwrap().iter().map(|group| group["id"].as_str().unwrap().to_owned()).collect();
    let labels =
        "Chart.getChart(document.querySelector('.chart.rows canvas')).data.labels.map((l) => l.split(' ').at(-1))";
    let order = |by: &str| {
        format!(
            "{{ const select = document.querySelector('[aria-label=\"Order of the layers\"]');
               select.value = '{by}';
               select.dispatchEvent(new Event('change')); }}"
        )
    };
    assert_eq!(page.eval(labels), json!(ids));
    page.eval(&order("best"));
    ids.reverse();
    assert_eq!(page.eval(labels), json!(ids));
    page.eval("document.querySelector('input[value=weight]').click()");
    page.eval(&order("worst"));
    let weight = bench.json(&["groups", "1", "--rank-by", "weight"]);
    let worst: Vec<&Value> = weight.as_array().unwrap().iter().map(|group| &group["id"]).collect();
    assert_eq!(page.eval(labels), json!(worst));

    page.eval(&format!("document.querySelector('[aria-label=\"Save the qconfig of trial {chosen}\"]').click()"));
    let file = downloads.join(format!("job-1-trial-{chosen}.qconfig.yaml"));
    let since = Instant::now();
    while !file.exists() {
        assert!(since.elapsed() < 20 * SECOND, "{:?}", fs::read_dir(&downloads).unwrap().collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read_to_string(file).unwrap(), bench.told(&["export", "1"]));

    page.eval("document.querySelector('section details summary').click()");
    for (name, width, scheme, colours) in
        [("light", 1200, "light", LIGHT), ("dark", 1200, "dark", DARK), ("narrow", 390, "light", LIGHT)]
    {
        let picture = pictures(&bench).join(format!("{name}.png"));
        page.picture(width, scheme, &picture);
        let found = pixels(&picture, colours);
        assert!(found.iter().all(|count| *count > 100), "{name}: {found:?} pixels of {colours:?}");
        let over = page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(over, 0, "{name} is wider than the window");
    }
    page.eval("location.hash = '#/'");
    page.until("!!document.querySelector('.jobs tbody tr')", 20 * SECOND);
    page.picture(1200, "light", &pictures(&bench).join("jobs.png"));
    page.picture(390, "dark", &pictures(&bench).join("jobs-narrow.png"));
    assert_eq!(page.errors, Vec::<String>::new());
}
