//! A module uses only modules above it; the core knows nothing of the shell's crates.

use std::{fs, path::Path};

/// Modules in order: each may use those before it, and itself.
const ORDER: [&str; 24] = [
    "cancel",
    "confidence",
    "graph",
    "onnx",
    "quant",
    "kernels",
    "sqnr",
    "engine",
    "ptq",
    "export",
    "dataset",
    "evaluate",
    "sensitivity",
    "search",
    "pareto",
    "job",
    "pipeline",
    "verify",
    // The shell.
    "store",
    "output",
    "report",
    "runner",
    "server",
    "cli",
];

/// The first module of the shell.
const SHELL: &str = "store";

/// Crates that only the shell may use.
const SHELL_CRATES: [&str; 9] = ["tokio", "sqlx", "rusqlite", "axum", "utoipa", "ureq", "clap", "indicatif", "anyhow"];

/// Crates that only the command line may use.
const CLI_CRATES: [&str; 5] = ["clap", "indicatif", "anyhow", "comfy_table", "ureq"];

/// Every source file below `src`, with the module it belongs to.
fn sources(folder: &Path, module: Option<&str>, found: &mut Vec<(String, String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = module.unwrap_or(&stem).to_owned();
        if path.is_dir() {
            sources(&path, Some(&module), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // What a test uses is no dependency of the module.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            let test = stem == "tests" || path.parent().is_some_and(|folder| folder.ends_with("tests"));
            if !test && !["lib", "main"].contains(&module.as_str()) {
                found.push((module, path.display().to_string(), text));
            }
        }
    }
}

fn all_sources() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut found);
    found
}

/// The modules of this crate that a text names: `crate::name`, and the names in `use crate::{...}`.
fn used(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for part in code.split("crate::").skip(1) {
        if let Some(list) = part.strip_prefix('{') {
            let (mut depth, mut name) = (0usize, String::new());
            for c in list.chars() {
                match c {
                    '}' if depth == 0 => break,
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => names.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            names.push(name);
        } else {
            names.push(part.to_owned());
        }
    }
    let word = |name: &String| name.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    names.iter().map(word).filter(|word: &String| !word.is_empty()).collect()
}

fn place(module: &str) -> usize {
    ORDER.iter().position(|name| *name == module).unwrap_or_else(|| panic!("`{module}` is not in the order of modules"))
}

#[test]
fn modules_use_only_modules_above_them() {
    let mut wrong = Vec::new();
    for (module, path, text) in all_sources() {
        for name in used(&text) {
            if ORDER.contains(&name.as_str()) && place(&name) > place(&module) {
                wrong.push(format!("{path}: {module} uses {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_uses_no_crate_of_the_shell() {
    let mut wrong = Vec::new();
    for (module, path, text) in all_sources() {
        let forbidden: &[&str] = match module.as_str() {
            module if place(module) < place(SHELL) => &SHELL_CRATES,
            "cli" => &[],
            _ => &CLI_CRATES,
        };
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for name in forbidden.iter().filter(|name| line.contains(&format!("{name}::"))) {
                wrong.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lists_of_imports_are_read() {
    let text = "use crate::{\n    a::{b, c},\n    d,\n};\nlet x = crate::e::f();\n// crate::g\n";
    assert_eq!(used(text), ["a", "d", "e"]);
}
