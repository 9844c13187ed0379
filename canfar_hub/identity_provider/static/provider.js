// Fills the sign-in form from a sample account, whose password is its name.
for (const button of document.querySelectorAll("[data-account]")) {
  button.addEventListener("click", () => {
    for (const id of ["username", "password"]) {
      const input = document.getElementById(id);
      input.value = button.dataset.account;
      input.removeAttribute("aria-invalid");
    }
    document.querySelector("#sign-in-form button[type=submit]").focus();
  });
}
