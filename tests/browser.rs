//! Opens the report of a real run in a real browser. Needs Chromium; without one it says so and checks nothing, except
//! in CI, where it must be there.

#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// Colours of the marks of a trial that is chosen and of the front, in the light and in the dark.
const LIGHT: [[u8; 3]; 2] = [[0xc2, 0x4e, 0x00], [0x00, 0x72, 0xb2]];
const DARK: [[u8; 3]; 2] = [[0xff, 0x9d, 0x5c], [0x58, 0xb4, 0xf0]];

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.is_file());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI must have Chromium (Debian's package chromium)");
    if found.is_none() {
        eprintln!("NOT TESTED: there is no Chromium here, so no report was opened in a browser");
    }
    found
}

/// Opens a file for a while of its own time, and says what the browser said.
fn open(browser: &Path, file: &Path, args: &[&str]) -> Output {
    let profile = TempDir::new().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
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
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/fashion-mnist.yaml");
    let ran = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"))
        .arg("run")
        .arg(job)
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
