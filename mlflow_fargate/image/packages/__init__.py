"""A model's requirements → what uv locks and installs → layers of packages.

requirements · lock_file · lock_record    lines, uv's lock, and the lock saved in the repository
uv                                        runs uv
installation · bytecode · compile_files   installs, and compiles to .pyc
package_layers · shared_libraries         layers, and the system libraries that wheels need
"""
