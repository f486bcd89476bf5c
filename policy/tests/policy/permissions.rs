//! A policy that others could write is not read.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use policy::config::{Config, Errors, load};

/// A policy directory of one slice, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        // Sticky, like /tmp: its names cannot be taken away by others.
        let path = std::env::temp_dir().join(format!("policy-{name}-{}", std::process::id()));
        let directory = Self(
            fs::canonicalize(path.parent().unwrap())
                .unwrap()
                .join(path.file_name().unwrap()),
        );
        let _ = fs::remove_dir_all(&directory.0);
        fs::create_dir_all(directory.0.join("slices")).unwrap();
        directory.write("node.toml", "");
        directory.write("slices/alpha.toml", "");
        directory.mode("", 0o755);
        directory.mode("slices", 0o755);
        directory
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
        self.mode(name, 0o644);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.0.join(name), Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<Config, Errors> {
        self.load_from(&self.0)
    }

    fn load_from(&self, path: &Path) -> Result<Config, Errors> {
        load(path, &|_| false, fs::metadata(&self.0).unwrap().uid())
    }

    /// The messages, without the directory's own name.
    #[track_caller]
    fn refused(&self) -> Vec<String> {
        let here = format!("{}/", self.0.display());
        let errors = self.load().expect_err("it is not to be trusted");
        errors
            .complaints()
            .iter()
            .map(|complaint| complaint.message.replace(&here, ""))
            .collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_of_the_owner_is_read() {
    let directory = Directory::new("good");
    // What editors leave behind is not policy.
    directory.write("slices/.alpha.toml.swp", "?");
    directory.write("slices/alpha.toml~", "?");
    let config = directory.load().unwrap();
    assert_eq!(config.slices.len(), 1);
    assert!(config.slice("alpha").is_some());
}

#[test]
fn a_directory_without_slices_is_read() {
    let directory = Directory::new("none");
    fs::remove_dir_all(directory.0.join("slices")).unwrap();
    assert_eq!(directory.load().unwrap().slices, []);
}

#[test]
fn a_dotted_path_means_the_same_directory() {
    let directory = Directory::new("dots");
    let path = directory.0.join("slices/./..");
    assert!(directory.load_from(&path).is_ok());
}

#[test]
fn files_and_directories_that_others_may_write_are_all_named() {
    let directory = Directory::new("writable");
    directory.mode("", 0o775);
    directory.mode("slices", 0o757);
    directory.mode("slices/alpha.toml", 0o666);
    directory.mode("node.toml", 0o664);
    assert_eq!(
        directory.refused(),
        [
            &format!(
                "{} may be written by others (mode 0775)",
                directory.0.display()
            ),
            "node.toml may be written by others (mode 0664)",
            "slices may be written by others (mode 0757)",
            "slices/alpha.toml may be written by others (mode 0666)",
        ]
    );
}

#[test]
fn a_sticky_bit_does_not_make_the_policys_own_directories_safe() {
    let directory = Directory::new("sticky");
    directory.mode("", 0o1777);
    directory.mode("slices", 0o1777);
    let here = directory.0.display();
    assert_eq!(
        directory.refused(),
        [
            &format!("{here} may be written by others (mode 1777)"),
            "slices may be written by others (mode 1777)",
        ]
    );
}

#[test]
fn a_directory_above_that_others_may_write_is_named() {
    let directory = Directory::new("above");
    let policy = directory.0.join("etc");
    fs::create_dir(&policy).unwrap();
    directory.write("etc/node.toml", "");
    directory.mode("etc", 0o755);
    directory.mode("", 0o777);
    let errors = directory.load_from(&policy).unwrap_err();
    let said = format!(
        "{} may be written by others (mode 0777)",
        directory.0.display()
    );
    assert_eq!(errors.complaints().len(), 1, "{errors}");
    assert_eq!(errors.complaints()[0].message, said);
    // Sticky, it is as safe as /tmp.
    directory.mode("", 0o1777);
    assert!(directory.load_from(&policy).is_ok());
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let directory = Directory::new("link");
    symlink("/etc/passwd", directory.0.join("slices/beta.toml")).unwrap();
    assert_eq!(directory.refused(), ["slices/beta.toml is a symbolic link"]);
}

#[test]
fn a_symbolic_link_on_the_way_is_not_followed() {
    let directory = Directory::new("way");
    let link = directory.0.join("link");
    symlink(&directory.0, &link).unwrap();
    let errors = directory.load_from(&link.join("slices/..")).unwrap_err();
    // By name the way leads back to the link.
    assert!(
        errors.complaints()[0]
            .message
            .ends_with("/link is a symbolic link"),
        "{errors}"
    );
}

#[test]
fn a_second_name_of_a_file_is_refused() {
    let directory = Directory::new("names");
    fs::hard_link(directory.0.join("node.toml"), directory.0.join("other")).unwrap();
    assert_eq!(directory.refused(), ["node.toml has 2 names (hard links)"]);
}

#[test]
fn a_file_that_is_no_slices_is_refused_and_not_passed_over() {
    let directory = Directory::new("other");
    directory.write("slices/beta.tml", "");
    fs::create_dir(directory.0.join("slices/gamma.toml")).unwrap();
    directory.mode("slices/gamma.toml", 0o755);
    assert_eq!(
        directory.refused(),
        [
            "beta.tml is not the policy of a slice",
            "slices/gamma.toml is not a regular file"
        ]
    );
}

#[test]
fn a_missing_node_file_is_named_and_the_slices_are_checked_all_the_same() {
    let directory = Directory::new("missing");
    fs::remove_file(directory.0.join("node.toml")).unwrap();
    directory.write("slices/alpha.toml", "socket = 1");
    let said = directory.refused();
    assert!(
        said[0].starts_with("cannot read node.toml: No such file"),
        "{said:?}"
    );
    assert_eq!(said[1..], ["unknown key `socket` at the top of the file"]);
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let directory = Directory::new("bytes");
    fs::write(directory.0.join("node.toml"), b"[node]\n# \xff\n").unwrap();
    assert_eq!(directory.refused(), ["line 2 is not UTF-8 text"]);
}

#[test]
fn a_file_without_end_is_not_read_whole() {
    let directory = Directory::new("large");
    directory.write("node.toml", &"#\n".repeat(1 << 20));
    assert_eq!(directory.refused(), ["the file has 2097152 bytes"]);
}
