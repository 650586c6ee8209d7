"""A run as files for a cluster: the same processes as ``rlserve run`` starts, from the same plan.

* ``roles``    the plan as roles: what runs how often, with which command, on how many GPUs
* ``documents``  plain data as YAML
* ``k8s``      Kubernetes: a Job of learner ranks, Deployments of the rest
* ``kuberay``  a RayJob that runs ``rlserve run --on ray``
* ``compose``  containers of one machine
* ``slurm``    one batch job

To add one: a module with ``files(config, options)``, its name in ``FORMATS`` of ``rlserve.cli.runs.render``.
"""
