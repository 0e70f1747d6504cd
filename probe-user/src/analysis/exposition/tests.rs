use super::*;

type Labels = &'static [(&'static str, &'static str)];

fn read_sample(line: &str) -> Option<Sample<'_>> {
    match read(line) {
        Ok(Line::Sample(sample)) => Some(sample),
        _ => None,
    }
}

#[test]
fn parts_are_returned_unchanged() {
    let cases: [(&str, &str, Labels, &str); 14] = [
        ("up 1", "up", &[], "1"),
        ("up 1 1395066363000", "up", &[], "1"),
        ("up\t 1.5e-06 \t-5 ", "up", &[], "1.5e-06"),
        ("a:b_9{} +Inf", "a:b_9", &[], "+Inf"),
        ("x{le=\"+Inf\"} NaN", "x", &[("le", "+Inf")], "NaN"),
        ("x{a=\"1\",} -0", "x", &[("a", "1")], "-0"),
        ("x { a = \"1\" , b=\"\" } 1", "x", &[("a", "1"), ("b", "")], "1"),
        ("x{a=\"b,c=d\"} 1", "x", &[("a", "b,c=d")], "1"),
        ("x{a=\"}{\"} 1", "x", &[("a", "}{")], "1"),
        (r#"x{a="\"}\" 2",b="\\"} 1"#, "x", &[("a", r#"\"}\" 2"#), ("b", r"\\")], "1"),
        (r#"x{a="\\\"\n"} 1"#, "x", &[("a", r#"\\\"\n"#)], "1"),
        ("x{a=\"größe 🦀\u{2028}\"} 1", "x", &[("a", "größe 🦀\u{2028}")], "1"),
        ("x{a=\"\t\r#\"} 1", "x", &[("a", "\t\r#")], "1"),
        ("x 1.8446744073709552e+19", "x", &[], "1.8446744073709552e+19"),
    ];
    for (line, name, labels, value) in cases {
        let sample = read_sample(line).unwrap_or_else(|| panic!("{line} can be parsed"));
        assert_eq!((sample.name, sample.labels.as_slice(), sample.value), (name, labels, value), "{line}");
        assert_eq!(name_of(line), Some(name), "{line}");
    }
}

#[test]
fn lines_that_prometheus_rejects_are_malformed() {
    let cases = [
        ("x", "no value"),
        ("x{a=\"1\"}", "labels and no value"),
        ("x one", "not a number"),
        ("x 1e999", "out of range for Go, and Prometheus rejects the whole scrape"),
        ("x 0x1p-2", "hexadecimal"),
        ("x 1_000", "an underscore"),
        ("x +NaN", "Go rejects the sign"),
        ("x 1 2 3", "too many words"),
        ("x 1 soon", "not a timestamp"),
        ("x 1 1.5", "a timestamp of OpenMetrics"),
        ("x 1\r", "a line of Windows"),
        (" x 1", "a leading blank"),
        ("9x 1", "a leading digit"),
        ("größe 1", "a name of Prometheus 3"),
        ("{\"größe\"} 1", "the same, quoted"),
        ("x{a=\"1\" b=\"2\"} 1", "no comma"),
        ("x{,a=\"1\"} 1", "a comma before the first"),
        ("x{a=\"1\",,b=\"2\"} 1", "two commas"),
        ("x{a=1} 1", "no quotes"),
        ("x{a=\"1} 1", "never closed"),
        ("x{a=\"1\\\"} 1", "the quote that closes is escaped"),
        ("x{a=\"1\" 1", "no brace"),
        ("x{a=\"\\t\"} 1", "no such escape"),
        ("x{a=\"1\",a=\"1\"} 1", "a duplicate label, for which Prometheus rejects the whole scrape"),
        ("x{__name__=\"y\"} 1", "another name"),
        ("x{a:b=\"1\"} 1", "a colon in a label"),
        ("x{9=\"1\"} 1", "a label with a leading digit"),
        ("x{a=\"\0\"} 1", "a zero ends Prometheus' text"),
        ("# TYPE x", "no type"),
        ("# TYPE x blob", "no such type"),
        ("# TYPE x gauge gauge", "two types"),
        ("# TYPE 9x gauge", "no name"),
        ("# HELP x \\t", "no such escape"),
        ("# HELP x \"\\\"\"", "a quote is not escaped in help"),
    ];
    for (line, why) in cases {
        assert_eq!(read(line), Err(Malformed), "{line}: {why}");
    }
    let long = format!("x{{a=\"{}\"}} 1", "b".repeat(MAX_LINE_BYTES));
    assert_eq!(read(&long), Err(Malformed), "longer than any of etcd's");
}

#[test]
fn comments_are_distinguished_by_their_keyword() {
    let typed = |family, kind| Ok(Line::Type { family, kind });
    let cases = [
        ("# TYPE x gauge", typed("x", FamilyType::Gauge), Some("x")),
        ("#\t TYPE  x \thistogram ", typed("x", FamilyType::Histogram), Some("x")),
        (
            "# HELP x It's \"so\" \\\\ \\n",
            Ok(Line::Help { family: "x", text: "It's \"so\" \\\\ \\n" }),
            Some("x"),
        ),
        ("# HELP x", Ok(Line::Help { family: "x", text: "" }), Some("x")),
        ("# HELP x  two blanks", Ok(Line::Help { family: "x", text: " two blanks" }), Some("x")),
        ("#TYPE x gauge", Ok(Line::Nothing), None),
        ("# TYPED x gauge", Ok(Line::Nothing), None),
        ("# EOF", Ok(Line::Nothing), None),
        ("#", Ok(Line::Nothing), None),
        ("", Ok(Line::Nothing), None),
        (" \t", Ok(Line::Nothing), None),
    ];
    for (line, expected, name) in cases {
        assert_eq!(read(line), expected, "{line}");
        assert_eq!(name_of(line), name, "{line}");
    }
}
