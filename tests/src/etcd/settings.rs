//! etcd's settings and the three ways to pass them: flags, environment, or a file.

/// How etcd receives its settings. It accepts one of these, each with its own names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConfigSource {
    #[default]
    Flags,
    Environment,
    File,
}

/// Settings by the name of their flag, in the order set.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Sets one, such as `snapshot-count` to `1000`; the last value wins.
    pub fn set(&mut self, flag: &str, value: impl Into<String>) {
        self.0.retain(|(name, _)| name != flag);
        self.0.push((flag.to_owned(), value.into()));
    }

    /// Sets everything in `others`.
    pub fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|(flag, value)| self.set(flag, value.as_str()));
    }

    /// Returns flags such as `--data-dir=/var/lib/etcd`.
    pub fn flags(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("--{name}={value}")).collect()
    }

    /// Returns variables such as `ETCD_DATA_DIR` with their values.
    pub fn environment(&self) -> Vec<(String, String)> {
        let named = |name: &str| format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
        self.0.iter().map(|(name, value)| (named(name), value.clone())).collect()
    }

    /// Returns the text of a configuration file, in which the client's TLS settings have a section of their
    /// own.
    pub fn file(&self) -> String {
        const TLS: [&str; 4] = ["cert-file", "key-file", "client-cert-auth", "trusted-ca-file"];
        let (tls, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(name, _)| TLS.contains(&name.as_str()));
        let mut text: String = others.into_iter().map(|setting| line("", setting)).collect();
        if !tls.is_empty() {
            text.push_str("client-transport-security:\n");
            text.extend(tls.into_iter().map(|setting| line("  ", setting)));
        }
        text
    }
}

/// Returns one line of YAML. Numbers and booleans are typed there: etcd rejects quoted ones.
fn line(indent: &str, (name, value): &(String, String)) -> String {
    let typed = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
    let value = if typed { value.clone() } else { serde_json::Value::from(value.as_str()).to_string() };
    format!("{indent}{name}: {value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Settings {
        let mut settings = Settings::default();
        settings.set("name", "first");
        settings.set("cert-file", "/tls/a.pem");
        settings.set("client-cert-auth", "true");
        settings.set("snapshot-count", "100");
        settings.set("name", "second");
        settings
    }

    #[test]
    fn each_way_has_its_own_names() {
        let settings = example();
        assert_eq!(
            settings.flags(),
            ["--cert-file=/tls/a.pem", "--client-cert-auth=true", "--snapshot-count=100", "--name=second"]
        );
        assert_eq!(settings.environment()[1], ("ETCD_CLIENT_CERT_AUTH".to_owned(), "true".to_owned()));
        assert_eq!(
            settings.file(),
            "snapshot-count: 100\nname: \"second\"\nclient-transport-security:\n  cert-file: \"/tls/a.pem\"\n  \
             client-cert-auth: true\n"
        );
    }
}
