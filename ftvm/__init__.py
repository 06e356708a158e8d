"""ftvm keeps a virtual machine running when its host dies."""
